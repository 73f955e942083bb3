"""Averages of the weights: the decay at each update, and any length afterwards from snapshots.

Notation: n counts the updates from 1. An average is a <- beta_n a + (1 - beta_n) w_n. The power
function average (EDM2, arXiv 2312.02696, section 3) has beta_n = (1 - 1/n)^(gamma + 1): it forgets
in proportion to the length of the run, and its profile after t updates, the share of w_tau in it,
is p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1). sigma_rel is the standard deviation of that
profile over t.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

# Of a power function average: number of updates before it, and sigma_rel.
Profile: TypeAlias = tuple[int, float]

LARGEST_SIGMA_REL = 12**-0.5  # that of gamma = 0: the mean of all weights so far


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma of a profile with the standard deviation `sigma_rel` (equation 126).

    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for gamma as a cubic.
    Raises ValueError unless 0.005 <= sigma_rel <= 12^-0.5.
    """
    check_sigma_rel("sigma_rel", sigma_rel)
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(float(roots.real.max()), 0.0)


def check_sigma_rel(name: str, value: float) -> None:
    """Raise ValueError, with `name`, unless 0.005 <= `value` <= `LARGEST_SIGMA_REL`."""
    if not 0.005 <= value <= LARGEST_SIGMA_REL:
        raise ValueError(f"`{name}` must be from 0.005 to {LARGEST_SIGMA_REL:.4f}, got {value}.")


def power_decay(sigma_rel: float, n: int) -> float:
    """beta_n of update number n, counted from 1; 0 for the first."""
    return float((1.0 - 1.0 / n) ** (gamma_of(sigma_rel) + 1.0))


def ema_decay_at(decay: float, warmup: bool, start_step: int, n: int) -> float:
    """The decay of the exponential average at update number n, counted from 1.

    0 up to update `start_step`, so that the average equals the weights until then. With `warmup`
    it rises as (1 + m) / (10 + m) at update number m from there on, up to `decay`.
    """
    m = n - start_step
    if m <= 0:
        return 0.0
    return min(decay, (1.0 + m) / (10.0 + m)) if warmup else decay


def posthoc_coefficients(stored: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """The factors (K,) of the `stored` averages whose sum is closest to the `wanted` one.

    The least-squares fit of the profiles over continuous time (EDM2, appendix C), in float64.
    """
    gram = np.array([[_product(a, b) for b in stored] for a in stored])
    right = np.array([_product(a, wanted) for a in stored])
    return np.linalg.lstsq(gram, right, rcond=None)[0]


def posthoc_error(stored: Sequence[Profile], wanted: Profile) -> float:
    """How far the fit of `posthoc_coefficients` is from the profile `wanted`, relative to it."""
    factors = posthoc_coefficients(stored, wanted)
    gram = np.array([[_product(a, b) for b in stored] for a in stored])
    right = np.array([_product(a, wanted) for a in stored])
    square = _product(wanted, wanted)
    return float(np.sqrt(max(square - 2 * factors @ right + factors @ gram @ factors, 0) / square))


def _product(a: Profile, b: Profile) -> float:
    """The integral of the product of two profiles."""
    gamma_a, gamma_b = gamma_of(a[1]), gamma_of(b[1])
    early, late = min(a[0], b[0]), max(a[0], b[0])
    exponent = gamma_b if a[0] < b[0] else gamma_a  # of the later one
    scale = (gamma_a + 1.0) * (gamma_b + 1.0) / (gamma_a + gamma_b + 1.0)
    return float(scale * (early / late) ** exponent / late)
