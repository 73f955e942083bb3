"""Linear layers, and the feed-forward network of two, against numpy in float64."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.layers.linear import Linear
from latte_ms.layers.mlp import Mlp

VALUE, HALF = 1e-5, 5e-3  # fixed before looking, relative to the largest reference value
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 8)).astype(np.float32)
DEEP = """
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from latte_ms.layers.linear import Linear
from latte_ms.runtime import RuntimeConfig, setup
from tests.memory import peak_mib, reset_peak

setup(RuntimeConfig())
layers = []
for _ in range(24):
    layers.append(Linear(2048, 2048, bias=False))
    layers[-1].weight.set_dtype(ms.float16)
network, x = nn.SequentialCell(*layers), Tensor(np.ones((2, 2048), np.float32))
Linear(8, 8)(x[:, :8]).asnumpy()
reset_peak()
before = peak_mib()
network(x).asnumpy()
print(peak_mib() - before)
"""


@pytest.mark.parametrize(("dtype", "bound"), [(ms.float32, VALUE), (ms.float16, HALF)])
def test_linear_in_its_precision(
    filled: Callable, error: Callable, dtype: ms.Type, bound: float
) -> None:
    layer = Linear(8, 5, dtype=dtype)
    values = filled(layer)
    found = layer(Tensor(X))
    assert found.dtype == dtype
    expected = X @ values["weight"].astype(np.float64).T + values["bias"]
    assert error(found.asnumpy(), expected) <= bound


def test_linear_without_bias(filled: Callable, error: Callable) -> None:
    layer = Linear(8, 5, bias=False)
    values = filled(layer)
    assert list(values) == ["weight"]
    expected = X @ values["weight"].astype(np.float64).T
    assert error(layer(Tensor(X)).asnumpy(), expected) <= VALUE


def test_weights_stored_in_float16_are_used_in_the_layers_precision(
    filled: Callable, error: Callable
) -> None:
    layer = Linear(8, 5)
    values = filled(layer)
    for parameter in layer.get_parameters():
        parameter.set_dtype(ms.float16)
    rounded = {name: value.astype(np.float16).astype(np.float64) for name, value in values.items()}
    found = layer(Tensor(X))
    assert found.dtype == ms.float32
    assert error(found.asnumpy(), X @ rounded["weight"].T + rounded["bias"]) <= VALUE


def test_weights_stored_in_float16_are_widened_one_layer_at_a_time() -> None:
    """24 layers of 8 MB, which widened all at once would take 384 MB more."""
    done = subprocess.run(
        [sys.executable, "-c", DEEP],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert float(done.stdout.split()[-1]) < 150.0


def test_a_bias_that_does_not_train(parameter_gradients: Callable, filled: Callable) -> None:
    layer = Linear(8, 5, train_bias=False)
    filled(layer)
    gradients = parameter_gradients(layer, np.ones((2, 3, 5), np.float32), X)
    assert not gradients["bias"].any()
    assert gradients["weight"].all()


def test_mlp(filled: Callable, error: Callable) -> None:
    layer = Mlp(8, 20)
    p = {name: value.astype(np.float64) for name, value in filled(layer).items()}
    x = RNG.standard_normal((2, 3, 8)).astype(np.float32)
    h = x @ p["fc1.weight"].T + p["fc1.bias"]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    expected = h @ p["fc2.weight"].T + p["fc2.bias"]
    assert error(layer(Tensor(x)).asnumpy(), expected) <= VALUE
