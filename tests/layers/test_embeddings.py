"""Embeddings of patches, timesteps and labels against numpy in float64."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor

from latte_ms.layers.embeddings import LabelEmbedding, PatchEmbedding, TimestepEmbedding

# Fixed before looking, relative to the largest reference value.
VALUE = 1e-5
RNG = np.random.default_rng(0)


def silu64(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_patches_are_the_windows_of_a_strided_convolution(
    filled: Callable, error: Callable
) -> None:
    p, channels, width = 2, 3, 8
    layer = PatchEmbedding(p, channels, width)
    values = filled(layer)
    kernel = values["proj.weight"].astype(np.float64).reshape(width, channels, p, p)
    x = RNG.standard_normal((2, 3, channels, 4, 6)).astype(np.float32)
    expected = np.zeros((2, 3, 6, width))
    for i in range(2):
        for j in range(3):
            window = x[:, :, :, p * i : p * i + p, p * j : p * j + p]
            expected[:, :, 3 * i + j] = np.einsum("bfcpq,dcpq->bfd", window, kernel)
    expected += values["proj.bias"]
    assert error(layer(Tensor(x)).asnumpy(), expected) <= VALUE


def test_timesteps_are_cosines_then_sines(filled: Callable, error: Callable) -> None:
    layer = TimestepEmbedding(24)
    p = {name: value.astype(np.float64) for name, value in filled(layer).items()}
    t = np.array([0, 1, 250, 999], np.int32)
    frequencies = np.exp(-np.log(10000) * np.arange(128) / 128).astype(np.float32)
    angles = (t[:, None].astype(np.float32) * frequencies).astype(np.float64)
    features = np.concatenate((np.cos(angles), np.sin(angles)), 1)
    hidden = silu64(features @ p["linear_1.weight"].T + p["linear_1.bias"])
    expected = hidden @ p["linear_2.weight"].T + p["linear_2.bias"]
    assert error(layer(Tensor(t)).asnumpy(), expected) <= VALUE


def test_labels_of_any_shape(filled: Callable) -> None:
    layer = LabelEmbedding(4, 6, null_class=True)
    table = filled(layer)["weight"]
    labels = np.array([[0, 4], [3, 3], [2, 1]], np.int32)
    found = layer(Tensor(labels))
    assert found.dtype == ms.float32
    np.testing.assert_array_equal(found.asnumpy(), table[labels])


def test_only_dropped_labels_need_a_row_more() -> None:
    assert LabelEmbedding(4, 6, null_class=True).weight.shape == (5, 6)
    assert LabelEmbedding(4, 6, null_class=False).weight.shape == (4, 6)
