"""The two-layer feed-forward network of a transformer block."""

import mindspore as ms
from mindspore import Tensor, nn

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear


class Mlp(nn.Cell):
    """Linear, GELU (tanh), Linear: (..., D) -> (..., D) through (..., inner_size)."""

    def __init__(self, hidden_size: int, inner_size: int, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, inner_size, dtype=dtype)
        self.fc2 = Linear(inner_size, hidden_size, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(kernels.gelu(self.fc1(x)))
