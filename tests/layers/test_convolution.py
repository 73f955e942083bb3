"""Convolutions against sums written out in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.layers.convolution import Conv2d, TemporalConv

RNG = np.random.default_rng(0)
PICTURE = RNG.standard_normal((2, 6, 10, 12)).astype(np.float32)


def convolved(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: tuple[int, ...]
) -> np.ndarray:
    """Sum over the k x k taps, each one product of shifted pictures, float64."""
    top, bottom, left, right = padding
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    size = weight.shape[2]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[2:])
    y = bias[None, :, None, None].astype(np.float64)
    for i in range(size):
        for j in range(size):
            seen = x[:, :, i:, j:][:, :, ::stride, ::stride][:, :, :rows, :columns]
            y = y + np.einsum("nchw,oc->nohw", seen, weight[:, :, i, j])
    return y


def filled(layer: Conv2d | TemporalConv) -> tuple[np.ndarray, np.ndarray]:
    """Random weight and bias, set and returned."""
    weight = RNG.standard_normal(layer.weight.shape).astype(np.float32)
    bias = RNG.standard_normal(layer.bias.shape).astype(np.float32)
    layer.weight.set_data(Tensor(weight))
    layer.bias.set_data(Tensor(bias))
    return weight, bias


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(1, 1, (0, 0, 0, 0)), (3, 1, (1, 1, 1, 1)), (3, 2, (0, 1, 0, 1)), (3, 2, (1, 1, 1, 1))],
)
def test_convolution(size: int, stride: int, padding: tuple[int, int, int, int]) -> None:
    layer = Conv2d(6, 5, size, stride, padding)
    expected = convolved(PICTURE, *filled(layer), stride, padding)
    found = layer(Tensor(PICTURE)).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("dtype", "bound"), [(ms.float32, 1e-6), (ms.float16, 5e-3)])
def test_convolution_upsampled(dtype: ms.Type, bound: float) -> None:
    layer = Conv2d(6, 5, 3, padding=1, upsample=True, dtype=dtype)
    doubled = PICTURE.repeat(2, axis=2).repeat(2, axis=3)
    expected = convolved(doubled, *filled(layer), 1, (1, 1, 1, 1))
    found = layer(Tensor(PICTURE))
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.asnumpy(), expected, rtol=0, atol=bound * np.abs(expected).max()
    )


@pytest.mark.parametrize(("dtype", "bound"), [(ms.float32, 1e-6), (ms.float16, 5e-3)])
def test_convolution_over_frames(dtype: ms.Type, bound: float) -> None:
    """Kernel (3, 1, 1) over two videos of three frames; nothing passes from one to the other."""
    layer = TemporalConv(6, 5, dtype)
    weight, bias = filled(layer)
    videos = RNG.standard_normal((2, 3, 6, 4, 7)).astype(np.float32)
    padded = np.pad(videos.astype(np.float64), ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    expected = bias[:, None, None] + sum(
        np.einsum("bfchw,oc->bfohw", padded[:, i : i + 3], weight[:, :, i, 0, 0]) for i in range(3)
    )
    found = layer(Tensor(videos.reshape(6, 6, 4, 7)), 3)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.asnumpy(), expected.reshape(6, 5, 4, 7), rtol=0, atol=bound * np.abs(expected).max()
    )


def test_upsample_is_for_one_kind_of_convolution() -> None:
    with pytest.raises(ValueError, match=r"`upsample` needs `kernel_size` 3.*got 1, 1 and 1"):
        Conv2d(6, 5, 1, padding=1, upsample=True)
