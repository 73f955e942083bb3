"""The random numbers of training."""

import numpy as np

from latte_ms.training.randomness import Draws, draw

SHAPE = (3, 4, 2, 6, 6)


def arrays(draws: Draws) -> list[np.ndarray]:
    return [
        *(draws.t, draws.noise, draws.posterior_noise),
        *(draws.dropped, draws.uniform, draws.choice),
    ]


def test_the_same_arguments_give_the_same_numbers() -> None:
    state = np.random.get_state()[1].copy()
    first, second = (arrays(draw(7, 12, SHAPE, 1000, 0.3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(np.random.get_state()[1], state), "the global generator is not touched"


def test_shapes_and_types() -> None:
    draws = draw(0, 0, SHAPE, 1000, 0.1)
    assert (draws.t.shape, draws.t.dtype) == ((3,), np.int32)
    assert (draws.dropped.shape, draws.dropped.dtype) == ((3,), np.bool_)
    for noise in (draws.noise, draws.posterior_noise):
        assert (noise.shape, noise.dtype) == (SHAPE, np.float32)
    assert not np.array_equal(draws.noise, draws.posterior_noise)


def test_a_batch_is_cut_from_the_run_wherever_the_cuts_are() -> None:
    """Two ranks, or two accumulated batches, draw what one batch of twice the size would."""
    whole = arrays(draw(7, 12, (6, *SHAPE[1:]), 1000, 0.3))
    halves = [arrays(draw(7, first, SHAPE, 1000, 0.3)) for first in (12, 15)]
    for array, parts in zip(whole, zip(*halves, strict=True), strict=True):
        np.testing.assert_array_equal(array, np.concatenate(parts))


def test_seeds_and_samples_differ() -> None:
    noises = [draw(7, 0, (20, *SHAPE[1:]), 1000, 0.0).noise, draw(8, 0, SHAPE, 1000, 0.0).noise]
    rows = np.concatenate(noises).reshape(23, -1)
    correlation = np.corrcoef(rows) - np.eye(23)
    assert np.abs(correlation).max() < 5 / np.sqrt(rows.shape[1])


def test_labels_are_dropped_at_the_rate_asked_for() -> None:
    draws = draw(1, 0, (4000, 1, 1, 1, 1), 1000, 0.1)
    assert abs(draws.dropped.mean() - 0.1) < 4 * np.sqrt(0.09 / 4000)
    assert not draw(1, 0, (100, 1, 1, 1, 1), 1000, 0.0).dropped.any()


def test_timesteps_are_uniform_over_the_schedule() -> None:
    t = draw(1, 0, (8000, 1, 1, 1, 1), 8, 0.1).t
    counts = np.bincount(t, minlength=8)
    assert len(counts) == 8
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_noise_is_standard_normal() -> None:
    draws = draw(1, 0, (50, 4, 4, 8, 8), 1000, 0.1)
    for noise in (draws.noise, draws.posterior_noise):
        assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
        assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
