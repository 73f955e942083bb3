"""Convolutions with a compute dtype of their own."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import convolution_kernels, kernels


class Conv2d(nn.Cell):
    """Convolution of (N, in, H, W) with weight (out, in, k, k) and bias (out,), in `dtype`.

    Parameters start at zero: every network initialises its own by its own scheme. They may be
    kept in a 16-bit dtype, and are cast to `dtype` where they are used.

    Args:
        padding: zeros around the image, one number or (top, bottom, left, right).
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
            return convolution_kernels.conv2d_upsampled(x, self.weight, bias)
        return convolution_kernels.conv2d(
            x, self.weight.astype(self.dtype), bias, self.stride, self.padding
        )


class TemporalConv(nn.Cell):
    """Temporal convolution, kernel (3, 1, 1), of videos whose frames lie one after another.

    Weight (out, in, 3, 1, 1) and bias (out,), computed in `dtype`; zeros before the first and after
    the last frame of a video. Every frame is joined with its neighbours along the channels, and a
    1 x 1 convolution mixes the three: no 3-D kernel, which an Ascend lacks in float32.
    """

    def __init__(self, in_channels: int, out_channels: int, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = Parameter(ops.zeros((out_channels, in_channels, 3, 1, 1), ms.float32))
        self.bias = Parameter(ops.zeros((out_channels,), ms.float32))

    def construct(self, x: Tensor, frames: int) -> Tensor:
        """(B * frames, in, H, W) -> (B * frames, out, H, W)."""
        x = with_neighbours(x.astype(self.dtype), frames)
        weight = self.weight.astype(self.dtype)
        out, channels = weight.shape[0], weight.shape[1]
        weight = weight.reshape(out, channels, 3).transpose(0, 2, 1).reshape(out, -1, 1, 1)
        return convolution_kernels.conv2d(x, weight, self.bias.astype(self.dtype), 1, (0, 0, 0, 0))


def with_neighbours(x: Tensor, frames: int) -> Tensor:
    """'(b f) c h w -> (b f) (3 c) h w': the frame before, the frame, the frame after."""
    n, c, height, width = x.shape
    images = kernels.split(x, 1, 0)
    none = kernels.zeros_like(images[0])
    parts: tuple[Tensor, ...] = ()
    for i in range(n):
        before = none if i % frames == 0 else images[i - 1]
        after = none if i % frames == frames - 1 else images[i + 1]
        parts = (*parts, before, images[i], after)
    return kernels.concat(parts, 0).reshape(n, 3 * c, height, width)
