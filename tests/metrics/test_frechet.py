"""The Fréchet distance against scipy's square root, and against closed forms."""

import numpy as np
import pytest
import scipy.linalg

from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.video_distance import video_distance


def features(seed: int, count: int, length: int = 400) -> np.ndarray:
    """Correlated, with a spectrum that falls as that of logits does."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((length, length)))[0]
    scales = 5.0 * np.exp(-np.arange(length) / (0.2 * length)) * (1 + 0.1 * seed)
    return (rng.standard_normal((count, length)) * scales @ basis + 0.1 * seed).astype(np.float32)


@pytest.mark.parametrize("count", [100, 600, 2048])
def test_the_root_is_scipys(count: int) -> None:
    first, second = (Gaussian.of(features(seed, count)) for seed in (1, 2))
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    shift = first.mean - second.mean
    expected = shift @ shift + np.trace(first.covariance + second.covariance - 2 * root).real
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_known_distances() -> None:
    """Of sets without spread, and of sets that are a multiple of each other: (a - 1)^2 tr C."""
    zeros, threes = np.zeros((4, 5)), np.full((4, 5), 3.0)
    assert frechet_distance(Gaussian.of(zeros), Gaussian.of(threes)) == pytest.approx(45.0)
    rows = features(3, 50, 20)
    rows -= rows.mean(0)
    first, second = Gaussian.of(rows), Gaussian.of(3.0 * rows)
    expected = 4.0 * np.trace(np.cov(rows, rowvar=False, bias=True))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9 * expected)


def test_covariances_are_numpys() -> None:
    rows = features(4, 30, 10)
    for unbiased in (False, True):
        expected = np.cov(rows, rowvar=False, bias=not unbiased)
        np.testing.assert_allclose(Gaussian.of(rows, unbiased).covariance, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((1, 5)), r"`features` must be \(N, D\) with N >= 2, got \(1, 5\)"),
        (np.zeros(5), r"`features` must be \(N, D\)"),
        (np.full((3, 2), np.nan), "`features` must be finite, got NaN"),
    ],
)
def test_impossible_features_are_named(rows: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gaussian.of(rows)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="`second` must be of vectors of 5 numbers, got 4"):
        frechet_distance(Gaussian.of(np.eye(5)), Gaussian.of(np.eye(4)))


def test_the_bias_of_few_clips_is_found() -> None:
    """Two sets of one distribution: their true distance is 0, and all of the value is bias."""
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((2, 400, 20))
    found = video_distance(real, generated)
    assert found.value > 0.2
    assert found.bias == pytest.approx(found.value, rel=0.5)
    assert 0 < found.at_standard < 0.7 * found.value
    assert 0 < found.deviation < found.value
    assert (found.num_real, found.num_generated) == (400, 400)
    again = video_distance(real, generated, seed=5)
    assert again.value == found.value
    assert again.bias != found.bias


def test_too_few_clips_are_refused() -> None:
    rows = np.random.default_rng(1).random((8, 3))
    with pytest.raises(ValueError, match="`generated` must have at least 8 clips, got 7"):
        video_distance(rows, rows[:7])
