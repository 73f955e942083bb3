"""The Fréchet video distance of two sets of features, with what is needed to trust it.

With N clips the distance is larger than with more of them, by about a constant over N (arXiv
1911.07023): distances of subsets show the constant, and with it the distance at any N.
"""

from dataclasses import dataclass

import numpy as np

from latte_ms.metrics.frechet import Gaussian, frechet_distance

STANDARD_CLIPS = 2048  # of each set, in published figures
MIN_CLIPS = 8  # of each set: a quarter of fewer has no covariance

_RESAMPLES = 20
_PARTS = (1, 2, 4)  # into which both sets are divided, for the line over 1 / N


@dataclass(frozen=True)
class VideoDistance:
    """The distance of two sets of clips, and what it would be with others."""

    value: float
    deviation: float  # standard deviation over 20 bootstrap samples
    bias: float  # the estimated part of `value` that is due to the number of clips
    at_standard: float  # the estimated value with 2048 clips in both sets
    num_real: int
    num_generated: int


def video_distance(
    real: np.ndarray, generated: np.ndarray, unbiased: bool = False, seed: int = 0
) -> VideoDistance:
    """Of two sets of features (N, D) and (M, D).

    Args:
        unbiased: covariances over N - 1.
        seed: of the subsets that deviation and bias are estimated with. `value` does not depend on
            it.
    Raises:
        ValueError: fewer than 8 clips in a set, another length, or a value that is not finite.
    """
    for name, features in (("real", real), ("generated", generated)):
        check_count(name, len(features))
    rng = np.random.default_rng(seed)
    value = _distance(real, generated, unbiased)
    resampled = [
        _distance(_drawn(rng, real), _drawn(rng, generated), unbiased) for _ in range(_RESAMPLES)
    ]
    slope = _slope(real, generated, unbiased, rng)
    inverse = 1.0 / len(real) + 1.0 / len(generated)
    at_standard = value + slope * (2.0 / STANDARD_CLIPS - inverse)
    return VideoDistance(
        value, float(np.std(resampled)), slope * inverse, at_standard, len(real), len(generated)
    )


def check_count(name: str, count: int) -> None:
    """Raise ValueError for fewer clips in the set `name` than deviation and bias need."""
    if count < MIN_CLIPS:
        raise ValueError(f"`{name}` must have at least {MIN_CLIPS} clips, got {count}.")


def _distance(real: np.ndarray, generated: np.ndarray, unbiased: bool) -> float:
    return frechet_distance(Gaussian.of(real, unbiased), Gaussian.of(generated, unbiased))


def _drawn(rng: np.random.Generator, features: np.ndarray) -> np.ndarray:
    """As many rows, drawn with replacement: a bootstrap sample."""
    return features[rng.integers(len(features), size=len(features))]


def _slope(
    real: np.ndarray, generated: np.ndarray, unbiased: bool, rng: np.random.Generator
) -> float:
    """How the distance grows with 1 / N + 1 / M, by a line through those of subsets."""
    inverses, values = [], []
    for parts in _PARTS:
        orders = [rng.permutation(len(features)) for features in (real, generated)]
        groups = [np.array_split(order, parts) for order in orders]
        for rows, others in zip(*groups, strict=True):
            inverses.append(1.0 / len(rows) + 1.0 / len(others))
            values.append(_distance(real[rows], generated[others], unbiased))
    slope, _ = np.polyfit(inverses, values, 1)
    return float(slope)
