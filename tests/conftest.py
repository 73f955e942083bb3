"""What every test shares: the runtime users get, the reference data, and the `slow` marker."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latte_ms.runtime import RuntimeConfig, setup

REFERENCE = Path(__file__).parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run also the tests marked slow")


def pytest_configure() -> None:
    setup(RuntimeConfig())  # graph mode with fusion, as users run; once per process


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow") or config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def pytest_collection_finish() -> None:
    """Leave what the imports hold out of garbage collection: a tenth of every compilation."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of outputs that the PyTorch reference computed."""
    return REFERENCE


@pytest.fixture(scope="session")
def error() -> Callable[[np.ndarray, np.ndarray], float]:
    """Largest difference relative to the largest expected value; the shapes must be equal."""

    def largest(found: np.ndarray, expected: np.ndarray) -> float:
        assert found.shape == expected.shape
        assert np.isfinite(found).all()
        return float(np.abs(found - expected).max() / np.abs(expected).max())

    return largest
