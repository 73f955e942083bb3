"""Averages of the weights: their equations, and any length of one from snapshots of others."""

import numpy as np
import pytest

from latte_ms.training.ema import (
    LARGEST_SIGMA_REL,
    ema_decay_at,
    gamma_of,
    posthoc_coefficients,
    posthoc_error,
    power_decay,
)
from latte_ms.training.optimizer import OptimizerConfig, step_factors


def average(weights: np.ndarray, sigma_rel: float) -> np.ndarray:
    """The power function average after each of T updates, run directly: like `weights` (T, N)."""
    gamma, found, now = gamma_of(sigma_rel), [], np.zeros(weights.shape[1])
    for n, row in enumerate(weights, 1):
        beta = (1 - 1 / n) ** (gamma + 1)  # EDM2, equation 127
        now = beta * now + (1 - beta) * row
        found.append(now)
    return np.array(found)


@pytest.mark.parametrize("sigma_rel", [0.005, 0.05, 0.1, 0.25, LARGEST_SIGMA_REL])
def test_gamma_gives_the_width(sigma_rel: float) -> None:
    gamma = gamma_of(sigma_rel)
    width = np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    assert width == pytest.approx(sigma_rel, rel=1e-9)


def test_gammas_of_the_paper() -> None:
    """EDM2 names 16.97 and 6.94 for its two lengths."""
    assert [gamma_of(s) for s in (0.05, 0.1)] == pytest.approx([16.97, 6.94], abs=0.005)


def test_the_shares_of_the_weights_are_a_power_function() -> None:
    steps, gamma = 50, gamma_of(0.1)
    shares = average(np.eye(steps), 0.1)[-1]
    edges = (np.arange(steps + 1) / steps) ** (gamma + 1)
    np.testing.assert_allclose(shares, np.diff(edges), rtol=1e-9)
    assert power_decay(0.1, 1) == 0.0, (
        "the first weights, from before the first update, are forgotten"
    )


def test_a_warm_start_follows_the_weights_at_first() -> None:
    decays = [ema_decay_at(0.9, True, 0, n) for n in (1, 2, 5, 80, 1000)]
    assert decays == pytest.approx([2 / 11, 3 / 12, 6 / 15, 81 / 90, 0.9])
    assert [ema_decay_at(0.9, False, 0, n) for n in (1, 2)] == [0.9, 0.9]
    assert [ema_decay_at(0.9, False, 3, n) for n in (1, 3, 4)] == [0.0, 0.0, 0.9]
    assert [ema_decay_at(0.9, True, 3, n) for n in (3, 4, 5)] == pytest.approx([0, 2 / 11, 3 / 12])


def test_an_update_gets_the_decays_of_all_averages() -> None:
    config = OptimizerConfig(
        ema_decay=0.99, ema_warmup=True, ema_sigma_rels=(0.1, 0.05), ema_snapshot_every=5
    )
    decays = step_factors(config, 6).ema_decays
    assert decays == pytest.approx((8 / 17, power_decay(0.1, 7), power_decay(0.05, 7)))
    numbers = step_factors(config, 6).tensor().asnumpy()
    np.testing.assert_allclose(numbers[4:].reshape(3, 2).sum(1), 1.0, rtol=1e-6)
    assert [config.takes_snapshot(n) for n in (4, 5, 10)] == [False, True, True]
    assert not OptimizerConfig().takes_snapshot(5)


@pytest.fixture(scope="module")
def path() -> np.ndarray:
    """Weights (2000, 8) that move fast at first and settle, with noise."""
    rng = np.random.default_rng(0)
    n = np.arange(1, 2001)[:, None]
    return np.log(n) * rng.normal(size=8) + rng.normal(size=(2000, 8)).cumsum(0) / np.sqrt(2000)


SNAPSHOTS = [(n, sigma) for n in range(100, 2001, 100) for sigma in (0.05, 0.1)]


def stored(path: np.ndarray) -> np.ndarray:
    averages = {sigma: average(path, sigma) for sigma in (0.05, 0.1)}
    return np.array([averages[sigma][n - 1] for n, sigma in SNAPSHOTS])


@pytest.mark.parametrize("wanted", [(2000, 0.05), (2000, 0.1), (1500, 0.1)])
def test_an_average_that_is_stored_comes_back(path: np.ndarray, wanted: tuple[int, float]) -> None:
    made = posthoc_coefficients(SNAPSHOTS, wanted) @ stored(path)
    np.testing.assert_allclose(made, average(path, wanted[1])[wanted[0] - 1], rtol=1e-5)
    assert posthoc_error(SNAPSHOTS, wanted) <= 1e-5


@pytest.mark.parametrize(
    "wanted", [(2000, 0.03), (2000, 0.07), (2000, 0.15), (2000, 0.2), (1234, 0.08)]
)
def test_other_lengths_are_near_a_direct_run(path: np.ndarray, wanted: tuple[int, float]) -> None:
    direct = average(path, wanted[1])[wanted[0] - 1]
    made = posthoc_coefficients(SNAPSHOTS, wanted) @ stored(path)
    assert np.abs(made - direct).max() <= 0.01 * np.ptp(path, axis=0).max()


@pytest.mark.parametrize("wanted", [(2000, 0.07), (1234, 0.15)])
def test_the_coefficients_are_the_least_squares_fit_of_the_profiles(
    wanted: tuple[int, float],
) -> None:
    """Against a fit of the functions on a fine grid, by their values rather than by integrals."""
    few = [(n, sigma) for n, sigma in SNAPSHOTS if n % 500 == 0]
    tau = (np.arange(400_000) + 0.5) / 200.0

    def profile(t: int, sigma_rel: float) -> np.ndarray:
        gamma = gamma_of(sigma_rel)
        return np.where(tau <= t, (gamma + 1) * (tau / t) ** gamma / t, 0.0)

    grid = np.stack([profile(*one) for one in few], 1)
    expected = np.linalg.lstsq(grid, profile(*wanted), rcond=None)[0]
    np.testing.assert_allclose(
        posthoc_coefficients(few, wanted), expected, atol=1e-4 * np.abs(expected).max()
    )
    residual = np.linalg.norm(grid @ expected - profile(*wanted)) / np.linalg.norm(profile(*wanted))
    assert posthoc_error(few, wanted) == pytest.approx(residual, rel=1e-2)


EVERY = {"ema_snapshot_every": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"ema_sigma_rels": (0.3,), **EVERY},
            r"`optimizer.ema_sigma_rels` must be .* got 0.3",
        ),
        ({"ema_sigma_rels": (0.1, 0.1), **EVERY}, r"`optimizer.ema_sigma_rels` must differ"),
        (EVERY, r"`optimizer.ema_snapshot_every` \(=1\) .* only for, `optimizer.ema_sigma_rels`"),
        ({"ema_start_step": -1}, r"`optimizer.ema_start_step` must be finite and not .* got -1"),
    ],
)
def test_a_value_that_is_not_possible_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)  # type: ignore[arg-type]
