"""Small networks and arrays of every element type."""

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte


@pytest.fixture(scope="session")
def checkpoint(reference: Path) -> Path:
    """A file of the reference's training script: entries `model` and `ema`."""
    return reference / "latte_class" / "checkpoint.pt"


@pytest.fixture(scope="session")
def latte_config(reference: Path) -> LatteConfig:
    text = (reference / "latte_class" / "config.json").read_text()
    return LatteConfig.from_upstream(json.loads(text))


@pytest.fixture
def latte(latte_config: LatteConfig) -> Latte:
    """The network of `checkpoint`, with other weights."""
    return Latte(latte_config, seed=1)


@pytest.fixture
def values() -> Callable[[Latte], dict[str, np.ndarray]]:
    """Copies of all parameters of a network, as float32."""

    def copy(network: Latte) -> dict[str, np.ndarray]:
        return {
            name: parameter.asnumpy().astype(np.float32).copy()
            for name, parameter in network.parameters_and_names()
        }

    return copy


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """One array per element type, and the odd shapes."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((3, 5))
    floating = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
    whole = (np.int64, np.int32, np.int16, np.int8, np.uint8)
    return {
        **{f"{np.dtype(t).name}.weight": normal.astype(t) for t in floating},
        **{f"{np.dtype(t).name}.weight": rng.integers(0, 100, (4, 2)).astype(t) for t in whole},
        "bool.weight": rng.integers(0, 2, 7).astype(bool),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    }
