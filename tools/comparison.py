"""Recorded values of the reference, and their comparison with what is computed here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Largest error relative to the largest reference value.
TABLE, FORWARD, LOOP, HALF = 1e-12, 1e-5, 1e-4, 5e-3
Arrays = dict[str, np.ndarray]


class Recorded(dict[str, Any]):
    """Named values of a reference folder, each an "array" or a "field".

    Raises ValueError for a name that was not recorded.
    """

    def __init__(self, values: Mapping[str, Any], kind: str) -> None:
        super().__init__(values)
        self.kind = kind

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"lacks the {self.kind} {name!r}.")


@dataclass(frozen=True)
class Comparison:
    """A value, the reference's value, and the bound of their difference."""

    name: str
    value: np.ndarray
    expected: np.ndarray
    bound: float

    @property
    def absolute(self) -> float:
        """Largest absolute error; infinite for another shape or for values that are not finite."""
        if self.value.shape != self.expected.shape or not np.isfinite(self.value).all():
            return float("inf")
        difference = np.asarray(self.value, np.float64) - np.asarray(self.expected, np.float64)
        return float(np.abs(difference).max())

    @property
    def relative(self) -> float:
        """The same over the largest reference value."""
        largest = float(np.abs(np.asarray(self.expected, np.float64)).max())
        return self.absolute / largest if largest else self.absolute

    @property
    def ok(self) -> bool:
        return self.relative <= self.bound
