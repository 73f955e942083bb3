"""A linear layer with a compute dtype of its own."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import kernels


class Linear(nn.Cell):
    """`x @ weight.T + bias` in `dtype`; weight (out_features, in_features), bias (out_features,).

    Parameters start at zero: every network initialises its own by its own scheme. They may be
    kept in a 16-bit dtype, and are cast to `dtype` where they are used.

    Args:
        train_bias: False gives the bias a gradient of zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: ms.Type = ms.float32,
        train_bias: bool = True,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.train_bias = train_bias
        self.weight = Parameter(ops.zeros((out_features, in_features), ms.float32))
        self.bias = Parameter(ops.zeros((out_features,), ms.float32)) if bias else None

    def construct(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        bias = None
        if self.bias is not None:
            bias = self.bias.astype(self.dtype)
            if not self.train_bias:
                bias = ops.stop_gradient(bias)
        weight = self.weight
        if self.dtype == ms.float32 and weight.dtype != ms.float32:
            # Cast only once x is available: otherwise MindSpore would begin a graph with the casts
            # of all its layers, and hold twice the memory that 16 bits save.
            weight = ops.depend(weight, x)
        return kernels.linear(x.astype(self.dtype), weight.astype(self.dtype), bias)
