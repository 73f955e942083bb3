"""Timesteps that are not uniform, the same for any number of ranks, and those of a teacher."""

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import Rank
from latte_ms.training.batch import LatentBatch
from latte_ms.training.timesteps import LossHistory, TimestepSampler, logit_normal

T = 6


class Resampler:
    """LossSecondMomentResampler as improved-diffusion defines it, in plain loops."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = [[] for _ in range(T)]

    def record(self, timesteps: np.ndarray, losses: np.ndarray) -> None:
        for t, loss in zip(timesteps, losses, strict=True):
            self.losses[t] = [*self.losses[t], float(loss)][-10:]

    def probabilities(self) -> np.ndarray:
        if min(len(row) for row in self.losses) < 10:
            return np.full(T, 1 / T)
        weights = np.array([np.mean(np.square(row)) ** 0.5 for row in self.losses])
        return weights / weights.sum() * 0.999 + 0.001 / T


def test_the_history_is_that_of_the_reference() -> None:
    ours, theirs, rng = LossHistory(T), Resampler(), np.random.default_rng(0)
    for _ in range(40):
        t, losses = rng.integers(0, T, 4), rng.random(4, np.float32)
        for history in (ours, theirs):
            history.record(t, losses)
        np.testing.assert_allclose(ours.probabilities(), theirs.probabilities(), rtol=1e-12)
    assert not np.allclose(ours.probabilities(), 1 / T)


def test_it_is_uniform_until_every_timestep_has_ten_losses() -> None:
    history = LossHistory(T)
    for t in range(T):
        history.record(np.full(9, t), np.full(9, 1.0 + t, np.float32))
    history.record(np.zeros(500, int), np.full(500, 9.0, np.float32))
    assert np.ptp(history.probabilities()) == 0
    history.record(np.arange(1, T), np.full(T - 1, 1.0, np.float32))
    assert np.ptp(history.probabilities()) > 0


def test_losses_that_are_not_finite_or_all_zero_do_no_harm() -> None:
    history = LossHistory(2)
    history.record(np.array([0, 0, 1]), np.array([np.nan, np.inf, 1.0], np.float32))
    assert history.counts.tolist() == [0, 1]
    history.record(np.repeat([0, 1], 20), np.zeros(40, np.float32))
    np.testing.assert_array_equal(history.probabilities(), [0.5, 0.5])


def batch_of(uniform: np.ndarray) -> LatentBatch:
    size = len(uniform)
    latents = np.zeros((size, 1, 1, 1, 1), np.float32)
    return LatentBatch(latents, latents, np.zeros(size, np.int32), {}, uniform)


def warm() -> TimestepSampler:
    timesteps = TimestepSampler(T, LossHistory(T), None, Communicator(Rank()))
    assert timesteps.history is not None
    for t in range(T):
        timesteps.history.record(np.full(10, t), np.full(10, 0.1 + t, np.float32))
    return timesteps


def test_timesteps_come_as_often_as_they_should_and_means_stay() -> None:
    timesteps = warm()
    size = 20_000
    drawn = timesteps.complete(batch_of(np.random.default_rng(1).random((size, 2))))
    p = timesteps.history.probabilities()
    counts = np.bincount(drawn.timesteps, minlength=T)
    assert np.abs(counts - size * p).max() < 5 * np.sqrt(size)
    values = np.arange(T) ** 2.0
    mean = (drawn.conditions["importance"] * values[drawn.timesteps]).mean()
    spread = np.sqrt((values**2 / (T * T * p)).sum() / size)
    assert abs(mean - values.mean()) < 5 * spread
    assert drawn.timesteps.dtype == np.int32
    assert drawn.conditions["importance"].dtype == np.float32


@pytest.mark.parametrize("edge", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_uniform_numbers_are_timesteps(edge: float) -> None:
    drawn = warm().complete(batch_of(np.full((3, 2), edge)))
    assert set(drawn.timesteps.tolist()) == {0 if edge == 0 else T - 1}


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.5, 0.6), (-1.0, 2.0)])
def test_logits_of_timesteps_are_normal(mean: float, deviation: float) -> None:
    rng, size = np.random.default_rng(5), 400_000
    normal = rng.normal(mean, deviation, size)
    counts = np.bincount((20 / (1 + np.exp(-normal))).astype(int), minlength=20)
    p = logit_normal(20, mean, deviation)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(p, counts / size, atol=5 * np.sqrt(0.25 / size))
    timesteps = TimestepSampler(20, p, None, Communicator(Rank()))
    drawn = timesteps.complete(batch_of(rng.random((size, 2))))
    frequencies = np.bincount(drawn.timesteps, minlength=20) / size
    np.testing.assert_allclose(frequencies, p, atol=5 * np.sqrt(0.25 / size))
    assert "importance" not in drawn.conditions, "the weighting is what it is for"
    assert timesteps.state == {}


class OneOf(Communicator):
    """Rank `index` of `count` in one process: the other ranks' numbers are given."""

    def __init__(self, index: int, count: int, tables: list[np.ndarray]) -> None:
        super().__init__(Rank())
        self.rank, self.tables = Rank(index, count), tables

    def sum(self, values: list[float]) -> Tensor:
        self.tables.append(np.array(values, np.float32))
        return Tensor(np.sum(self.tables, 0))


def test_ranks_and_batches_record_as_one_large_batch() -> None:
    rng = np.random.default_rng(2)
    t, losses = rng.integers(0, T, 8).astype(np.int32), rng.random(8).astype(np.float32)
    whole = TimestepSampler(T, LossHistory(T), None, Communicator(Rank()))
    whole.record([t], [losses])
    halves = TimestepSampler(T, LossHistory(T), None, Communicator(Rank()))
    halves.record([t[:4], t[4:]], [losses[:4], losses[4:]])
    tables: list[np.ndarray] = []
    for index in (0, 1):
        ranked = TimestepSampler(T, LossHistory(T), None, OneOf(index, 2, tables))
        part = slice(4 * index, 4 * index + 4)
        ranked.record([t[part]], [losses[part]])
    for other in (halves, ranked):
        for name, array in whole.state.items():
            np.testing.assert_array_equal(other.state[name], array)


def test_a_teachers_timestep_is_at_most_its_gap_lower_and_never_below_zero() -> None:
    rng = np.random.default_rng(3)
    uniform = rng.random((5000, 2))
    batch = batch_of(uniform)
    t = rng.integers(0, 100, 5000, np.int32)
    batch = LatentBatch(batch.latents, batch.noise, t, {}, uniform)
    drawn = TimestepSampler(100, None, 10, Communicator(Rank())).complete(batch)
    np.testing.assert_array_equal(drawn.timesteps, t)
    assert "importance" not in drawn.conditions
    teacher = drawn.conditions["teacher_t"]
    gaps = (t - teacher)[t >= 10]
    assert np.bincount(gaps).shape == (11,)
    assert np.bincount(gaps).min() > 300
    assert teacher.min() == 0
    same = TimestepSampler(100, None, 0, Communicator(Rank())).complete(batch)
    np.testing.assert_array_equal(same.conditions["teacher_t"], t)


@pytest.mark.parametrize("gap", [-1, 100])
def test_a_gap_out_of_range_is_named(gap: int) -> None:
    with pytest.raises(ValueError, match=f"`teacher_gap` must be 0 to 99, got {gap}"):
        TimestepSampler(100, None, gap, Communicator(Rank()))


def test_state_is_taken_over() -> None:
    first, second = warm(), TimestepSampler(T, LossHistory(T), None, Communicator(Rank()))
    second.load(first.state)
    uniform = np.random.default_rng(4).random((50, 2))
    np.testing.assert_array_equal(
        first.complete(batch_of(uniform)).timesteps, second.complete(batch_of(uniform)).timesteps
    )
    assert TimestepSampler(T, None, 1, Communicator(Rank())).state == {}
