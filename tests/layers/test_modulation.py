"""Shift, scale and gate from a condition, against numpy in float64."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor

from latte_ms.layers.modulation import Modulation, modulate

VALUE = 1e-5  # fixed before looking, relative to the largest reference value
RNG = np.random.default_rng(0)


def silu64(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_modulation_cuts_shift_scale_and_gate_in_order(filled: Callable, error: Callable) -> None:
    layer = Modulation(8, 6)
    values = filled(layer)
    condition = RNG.standard_normal((2, 1, 1, 8)).astype(np.float32)
    weight, bias = values["linear.weight"], values["linear.bias"]
    expected = np.split(silu64(condition.astype(np.float64)) @ weight.T + bias, 6, -1)
    for found, wanted in zip(layer(Tensor(condition)), expected, strict=True):
        assert error(found.asnumpy(), wanted) <= VALUE


def test_modulated_normalisation(compiled: Callable, error: Callable) -> None:
    x = RNG.standard_normal((2, 3, 5, 16)).astype(np.float32)
    shift, scale = RNG.standard_normal((2, 2, 1, 1, 16)).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    found = compiled(modulate, x, shift, scale)
    assert error(found, normal * (1 + scale) + shift) <= VALUE


def test_float16_modulation_returns_float32(filled: Callable, error: Callable) -> None:
    layer, exact = Modulation(8, 2, ms.float16), Modulation(8, 2)
    filled(layer), filled(exact)
    condition = Tensor(RNG.standard_normal((2, 1, 1, 8)).astype(np.float32))
    for found, wanted in zip(layer(condition), exact(condition), strict=True):
        assert found.dtype == ms.float32
        assert error(found.asnumpy(), wanted.asnumpy()) <= 5e-3
