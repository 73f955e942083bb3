"""One recorded output of the reference beside what was computed here."""

from dataclasses import dataclass

import numpy as np

# Largest error relative to the largest reference value.
TABLE, FORWARD, LOOP, HALF = 1e-12, 1e-5, 1e-4, 5e-3
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """A value, what the reference computed, and how far they may be apart."""

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
