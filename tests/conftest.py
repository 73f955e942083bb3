"""What every test shares: the runtime users get, the reference data, the two markers."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latte_ms.runtime import RuntimeConfig, setup

REFERENCE = Path(__file__).parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run also the tests marked slow")
    parser.addoption("--extended", action="store_true", help="run all tests")


def pytest_configure(config: pytest.Config) -> None:
    keep_kernels_apart(config.rootpath)
    setup(RuntimeConfig())  # graph mode with fusion, as users run; once per process


def keep_kernels_apart(root: Path) -> None:
    """A folder of fused kernels for each worker and the processes that its tests start.

    MindSpore's processes on a CPU share out the kernels to compile among all that have the same
    folder, by default the working directory. When one is killed meanwhile, as some tests do, those
    that wait for its kernels wait for a quarter of an hour.
    """
    folder = root / ".pytest_cache" / "kernels" / os.environ.get("PYTEST_XDIST_WORKER", "main")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MS_COMPILER_CACHE_PATH"] = str(folder)  # a worker has inherited that of "main"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--extended") or config.getoption("-m"):
        return
    skipped = ["extended"] if config.getoption("--slow") else ["extended", "slow"]
    left_out = {item for item in items if any(map(item.get_closest_marker, skipped))}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


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
