"""Scores of sets of images by their features or class probabilities: KID and IS."""

from dataclasses import dataclass

import numpy as np

NUM_SPLITS = 10  # of an inception score


@dataclass(frozen=True)
class Score:
    """A mean over subsets or splits, and its standard deviation."""

    mean: float
    deviation: float


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> Score:
    """Kernel inception distance (arXiv 1801.01401) of features (N, D) and (M, D).

    The unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, averaged over
    subsets of `subset_size` vectors, or of all where there are fewer. Tables often have it times
    1000.

    Raises ValueError for other shapes, fewer than 2 vectors, `num_subsets` below 1 or `subset_size`
    below 2.
    """
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != real.shape[1]:
            raise ValueError(
                f"`{name}` must be (N, {real.shape[-1]}) with N >= 2, got {features.shape}."
            )
    for name, number, least in (
        ("num_subsets", num_subsets, 1),
        ("subset_size", subset_size, 2),
    ):
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}, got {number}.")
    size, rng = min(subset_size, len(real), len(generated)), np.random.default_rng(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (
            features[rng.choice(len(features), size, replace=False)].astype(np.float64)
            for features in (real, generated)
        )
        values.append(_discrepancy(x, y))
    return Score(float(np.mean(values)), float(np.std(values)))


def inception_score(
    probabilities: np.ndarray, num_splits: int = NUM_SPLITS, seed: int = 42
) -> Score:
    """Inception score (arXiv 1606.03498) of class probabilities (N, K).

    exp of the mean KL divergence of a sample's class probabilities from their average over its
    split, for `num_splits` parts of a shuffled set.

    Raises ValueError for another shape, rows that do not add up to 1, or fewer rows than splits.
    """
    if probabilities.ndim != 2 or len(probabilities) < num_splits or num_splits < 1:
        raise ValueError(
            f"`probabilities` must be (N, K) with N at least `num_splits` (={num_splits}), "
            f"got {probabilities.shape}."
        )
    rows = probabilities.astype(np.float64)
    if rows.min() < 0 or np.abs(rows.sum(1) - 1).max() > 1e-3:
        raise ValueError("`probabilities` must have rows that add up to 1.")
    rows = rows[np.random.RandomState(seed).permutation(len(rows))]
    scores = []
    for number in range(num_splits):
        part = rows[number * len(rows) // num_splits : (number + 1) * len(rows) // num_splits]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(part > 0, part * (np.log(part) - np.log(part.mean(0))), 0.0)
        scores.append(np.exp(terms.sum(1).mean()))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (N, K) float64 of logits (N, K)."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of one size, (N, D) each."""
    count, length = x.shape
    within = (x @ x.T / length + 1) ** 3 + (y @ y.T / length + 1) ** 3
    between = (x @ y.T / length + 1) ** 3
    off_diagonal = within.sum() - np.trace(within)
    return float(off_diagonal / (count * (count - 1)) - 2 * between.sum() / count**2)
