"""The Fréchet distance of two sets of vectors, by their means and covariances in float64."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of vectors."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, unbiased: bool = False) -> "Gaussian":
        """Of the rows of `features` (N, D); `unbiased`: the covariance over N - 1, else over N.

        Raises ValueError for another shape, fewer than 2 rows, or a value that is not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"`features` must be (N, D) with N >= 2, got {features.shape}.")
        if not np.isfinite(features).all():
            raise ValueError("`features` must be finite, got NaN or infinity.")
        rows = features.astype(np.float64)
        mean = rows.mean(0)
        rows -= mean
        return cls(mean, rows.T @ rows / (len(rows) - int(unbiased)))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Dowson and Landau, 1982).

    The roots are those of symmetric matrices, so that nothing becomes complex where there are fewer
    vectors than numbers in one. Raises ValueError for vectors of two lengths.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"`second` must be of vectors of {len(first.mean)} numbers, got {len(second.mean)}."
        )
    shift = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    root = trace_of_root(first.covariance, second.covariance)
    return float(shift @ shift + traces - 2.0 * root)


def trace_of_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr (first second)^1/2 of two symmetric positive semi-definite matrices (D, D)."""
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root @ second @ root
    values = np.linalg.eigvalsh(0.5 * (product + product.T))
    return float(np.sqrt(np.maximum(values, 0.0)).sum())
