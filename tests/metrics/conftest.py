"""The runtime of `calc_metrics.py`: convolutions gain nothing from fusion."""

from collections.abc import Iterator

import pytest

from latte_ms.runtime import RuntimeConfig, setup


@pytest.fixture(autouse=True, scope="package")
def without_fusion() -> Iterator[None]:
    setup(RuntimeConfig(jit_level="O0"))
    yield
    setup(RuntimeConfig())
