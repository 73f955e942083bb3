"""Convolutions by the kernels of each backend; see `kernels`."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops
from mindspore.ops import constexpr

from latte_ms.layers.kernels import on_ascend, on_cpu, pad

# MindSpore 2.9 and later carry a oneDNN whose float32 convolution on CPU is a scalar loop
# (1.1 GFLOP/s); unfolding and one matrix product reach 180 to 230 GFLOP/s.
_SLOW_CPU_CONVOLUTION = tuple(int(part) for part in ms.__version__.split(".")[:2]) >= (2, 9)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: tuple[int, int, int, int]
) -> Tensor:
    """2-D convolution of x (N, C, H, W) with weight (O, C, k, l) and bias (O,).

    `padding` counts the zero rows and columns at the top, bottom, left and right.
    """
    top, bottom, left, right = padding
    if on_ascend():
        if top == bottom and left == right:
            return mint.nn.functional.conv2d(x, weight, bias, stride, (top, left))
        x = mint.nn.functional.pad(x, (left, right, top, bottom))
        return mint.nn.functional.conv2d(x, weight, bias, stride, 0)
    return _conv2d(x, weight, stride, padding) + bias.reshape(1, -1, 1, 1)


def conv2d_upsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 x 3 convolution of x (N, C, H, W) after nearest-neighbour upsampling: (N, O, 2H, 2W).

    Weight (O, C, 3, 3) may be float32 although x has 16 bits. The 3 x 3 window over the
    upsampled image sees 2 x 2 different pixels: four 2 x 2 kernels, one for each parity of row and
    column, give the same sums with 4 products instead of 9, and that image is never made. (Ascend
    makes it: its rearrangement of the four results may cost more than the products saved.)
    """
    if on_ascend():
        upsampled = mint.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return conv2d(upsampled, weight.astype(x.dtype), bias, 1, (1, 1, 1, 1))
    n, _, h, w = x.shape
    out = weight.shape[0]
    y = _conv2d(x, _parity_kernels(weight).astype(x.dtype), 1, (1, 1, 1, 1))
    y = y.reshape(n, 2, 2, out, h + 1, w + 1).transpose(0, 3, 4, 1, 5, 2)
    y = y.reshape(n, out, 2 * h + 2, 2 * w + 2)  # one pixel too many on every side
    return ops.slice(y, (0, 0, 1, 1), (n, out, 2 * h, 2 * w)) + bias.reshape(1, -1, 1, 1)


def max_pool2d(x: Tensor, size: int, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
    """The largest value of each size x size window of x (N, C, H, W), which is not negative.

    `padding` counts the zero rows and columns at the top, bottom, left and right.
    """
    top, bottom, left, right = padding
    if any(padding):
        x = pad(x, (left, right, top, bottom))
    if on_ascend():
        return mint.nn.functional.max_pool2d(x, size, stride)
    return ops.MaxPool(size, stride, "valid")(x)


def average_pool2d(x: Tensor) -> Tensor:
    """The mean of the 3 x 3 pixels around each one of x (N, C, H, W), of those that exist."""
    if on_ascend():
        return mint.nn.functional.avg_pool2d(x, 3, 1, 1, False, False)
    height, width = x.shape[2], x.shape[3]
    x = pad(x, (1, 1, 1, 1))
    x = x[:, :, :height] + x[:, :, 1 : height + 1] + x[:, :, 2:]
    x = x[:, :, :, :width] + x[:, :, :, 1 : width + 1] + x[:, :, :, 2:]
    return x * _shares(height, width)


@constexpr
def _shares(height: int, width: int) -> Tensor:
    """One over the number of pixels around each one, (1, 1, H, W)."""

    def counts(length: int) -> np.ndarray:
        return 3.0 - (np.arange(length) == 0) - (np.arange(length) == length - 1)

    shares = 1.0 / np.outer(counts(height), counts(width))
    return Tensor(shares[None, None].astype(np.float32))


@constexpr
def _parity_sums() -> tuple[Tensor, ...]:
    """Which of the 9 weights each of the 4 products of a 2 x 2 kernel sums: 4 x (9, 4), 0 or 1.

    The order of the kernels is that of the output pixels between four input pixels: first the one
    that looks down and right, an odd row and column of the upsampled image.
    """
    even = np.array([[1, 0], [0, 1], [0, 1]], np.float32)  # weights of 3 rows -> 2 input rows
    odd = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    return tuple(Tensor(np.kron(rows, cols)) for rows in (odd, even) for cols in (odd, even))


def _parity_kernels(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (4 * O, C, 2, 2), float32."""
    out, channels = weight.shape[0], weight.shape[1]
    rows = weight.astype(ms.float32).reshape(-1, 9)
    kernels = [ops.matmul(rows, sums) for sums in _parity_sums()]
    return ops.concat(kernels, 0).reshape(4 * out, channels, 2, 2)


def _conv2d(x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
    if _SLOW_CPU_CONVOLUTION and on_cpu():
        return _conv2d_by_matmul(x, weight, stride, padding)
    convolve = ops.Conv2D(weight.shape[0], weight.shape[2:4], 1, "pad", padding, stride)
    return convolve(x, weight)


def _conv2d_by_matmul(
    x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]
) -> Tensor:
    top, bottom, left, right = padding
    if top != bottom or left != right or top != left:
        x = pad(x, (left, right, top, bottom))
        top, bottom, left, right = 0, 0, 0, 0
    n, _, height, width = x.shape
    out, kernel = weight.shape[0], weight.shape[2:4]
    rows = (height + top + bottom - kernel[0]) // stride + 1
    columns = (width + left + right - kernel[1]) // stride + 1
    if kernel == (1, 1) and stride == 1:
        patches = x.reshape(n, -1, rows * columns)
    else:
        patches = ops.unfold(x, kernel, padding=top, stride=stride)
    return ops.matmul(weight.reshape(out, -1), patches).reshape(n, out, rows, columns)
