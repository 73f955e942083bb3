"""The two-layer feed-forward network of a transformer block."""

import mindspore as ms
from mindspore import Tensor, nn

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear


class Mlp(nn.Cell):
    """Linear, GELU (tanh), Linear: (..., width) -> (..., width) through (..., hidden)."""

    def __init__(self, width: int, hidden: int, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden, dtype=dtype)
        self.fc2 = Linear(hidden, width, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(kernels.gelu(self.fc1(x)))
