"""A 2-D convolution whose products run in a chosen precision."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import kernels


class Conv2d(nn.Cell):
    """Convolution of (N, in, H, W) with weight (out, in, k, k) and bias (out,), in `dtype`.

    Parameters start at zero: every network initialises its own by its own scheme. They may be
    stored in a 16-bit type, and are cast to `dtype` where they are used.

    Args:
        padding: zeros around the picture, one width or (top, bottom, left, right).
        upsample: double every pixel in both directions first; for kernel 3, stride 1, padding 1.
    Raises:
        ValueError: `upsample` with another kernel, stride or padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] = 0,
        upsample: bool = False,
        dtype: ms.Type = ms.float32,
    ) -> None:
        super().__init__()
        if upsample and (kernel_size, stride, padding) != (3, 1, 1):
            raise ValueError(
                "`upsample` needs `kernel_size` 3, `stride` 1 and `padding` 1, "
                f"got {kernel_size}, {stride} and {padding}."
            )
        self.stride = stride
        self.padding = (padding,) * 4 if isinstance(padding, int) else padding
        self.upsample = upsample
        self.dtype = dtype
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = Parameter(ops.zeros(shape, ms.float32))
        self.bias = Parameter(ops.zeros((out_channels,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        x, bias = x.astype(self.dtype), self.bias.astype(self.dtype)
        if self.upsample:
            return kernels.conv2d_of_doubled(x, self.weight, bias)
        return kernels.conv2d(x, self.weight.astype(self.dtype), bias, self.stride, self.padding)
