"""Adaptive layer normalisation: a condition decides shift, scale and gate of every channel."""

import mindspore as ms
from mindspore import Tensor, nn

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear


class Modulation(nn.Cell):
    """Linear(SiLU(condition)) split into `parts` tensors of the condition's size, in float32.

    It sees one row per sample, or per frame and image in joint training, (..., D) -> parts x
    (..., D); the rows are broadcast over tokens where they are used, so the product is not repeated
    for each of them.
    """

    def __init__(self, hidden_size: int, parts: int, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.linear = Linear(hidden_size, parts * hidden_size, dtype=dtype)

    def construct(self, condition: Tensor) -> tuple[Tensor, ...]:
        y = self.linear(kernels.silu(condition)).astype(ms.float32)
        return kernels.split(y, self.hidden_size, -1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, without learned affine (paper, S-AdaLN), in float32."""
    return kernels.layer_norm(x, None, None, eps) * (1.0 + scale) + shift
