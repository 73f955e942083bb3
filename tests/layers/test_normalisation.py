"""Normalisations against their formula in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.layers.normalisation import GroupNorm, LayerNorm, RmsNorm

RNG = np.random.default_rng(0)


def normal(x: np.ndarray, eps: float) -> np.ndarray:
    """Zero mean, unit variance over the last axis."""
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def filled(layer: LayerNorm | GroupNorm) -> tuple[np.ndarray, np.ndarray]:
    weight = RNG.standard_normal(layer.weight.shape).astype(np.float32)
    bias = RNG.standard_normal(layer.bias.shape).astype(np.float32)
    layer.weight.set_data(Tensor(weight))
    layer.bias.set_data(Tensor(bias))
    return weight, bias


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_group_norm(offset: float) -> None:
    x = (RNG.standard_normal((2, 6, 5, 7)) + offset).astype(np.float32)
    layer = GroupNorm(3, 6, eps=1e-6)
    weight, bias = (v[None, :, None, None] for v in filled(layer))
    expected = normal(x.reshape(2, 3, -1), 1e-6).reshape(x.shape) * weight + bias
    bound = 1e-6 * (1 + offset) * np.abs(expected).max()  # float32 of the input itself
    np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), expected, rtol=0, atol=bound)


def test_group_norm_of_videos() -> None:
    """Two videos of three frames: one mean and variance for all frames of a video."""
    scale = np.arange(1, 7, dtype=np.float32).reshape(2, 3, 1, 1, 1)
    videos = RNG.standard_normal((2, 3, 6, 5, 7)).astype(np.float32) * scale + scale
    layer = GroupNorm(3, 6, eps=1e-5)
    weight, bias = (v[:, None, None] for v in filled(layer))
    grouped = videos.reshape(2, 3, 3, -1).transpose(0, 2, 1, 3)  # (B, G, F, ...)
    expected = normal(grouped.reshape(2, 3, -1), 1e-5).reshape(grouped.shape)
    expected = expected.transpose(0, 2, 1, 3).reshape(videos.shape) * weight + bias
    found = layer(Tensor(videos.reshape(6, 6, 5, 7)), 3).asnumpy()
    bound = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=0, atol=bound)


def test_layer_norm() -> None:
    x = RNG.standard_normal((4, 5, 48)).astype(np.float32) * 3 + 1
    layer = LayerNorm(48, eps=1e-5)
    weight, bias = filled(layer)
    expected = normal(x, 1e-5) * weight + bias
    bound = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), expected, rtol=0, atol=bound)


def test_rms_norm() -> None:
    x = RNG.standard_normal((4, 5, 48)).astype(np.float32) * 3 + 1
    layer = RmsNorm(48, eps=1e-5)
    weight = RNG.standard_normal(48).astype(np.float32)
    layer.weight.set_data(Tensor(weight))
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    bound = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("layer", "shape"), [(GroupNorm(2, 4), (1, 4, 9)), (LayerNorm(9), (3, 9))])
def test_float16_is_normalised_in_float32(
    layer: LayerNorm | GroupNorm, shape: tuple[int, ...]
) -> None:
    """Squares of 1000 overflow float16."""
    x = (RNG.standard_normal(shape) * 1000).astype(np.float16)
    found = layer(Tensor(x))
    assert found.dtype == ms.float32
    grouped = x.reshape(1, 2, -1) if isinstance(layer, GroupNorm) else x
    expected = normal(grouped, 1e-6).reshape(shape)
    np.testing.assert_allclose(found.asnumpy(), expected, atol=1e-5)


def test_indivisible_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`channels` \(=6\) must be divisible by `groups` \(=4\)"):
        GroupNorm(4, 6)
