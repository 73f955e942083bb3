"""Noise depends on a sample's own source: not on the batch, its order, or the size of an upload."""

import numpy as np
import pytest

from latte_ms.diffusion.noise import (
    FramesFirst,
    check_seeds,
    generators,
    noise_blocks,
    standard_normal,
)

SHAPE = (2, 3, 4, 5)


def bank(seeds: list[int], steps: int, shape: tuple[int, ...]) -> np.ndarray:
    return next(noise_blocks(generators(seeds, len(seeds)), steps, shape, steps))


def initial(seeds: list[int], shape: tuple[int, ...]) -> np.ndarray:
    return standard_normal(generators(seeds, len(seeds)), shape)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together = bank([7, 8, 9], 6, SHAPE)
    assert together.shape == (6, 3, *SHAPE)
    assert together.dtype == np.float32
    assert np.array_equal(together[:, 1:2], bank([8], 6, SHAPE))
    assert np.array_equal(together[:, ::-1], bank([9, 8, 7], 6, SHAPE))
    assert np.array_equal(initial([7, 8], SHAPE)[1:], initial([8], SHAPE))


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 7])
def test_blocks_join_to_the_whole_noise(rows: int) -> None:
    # An odd number of values per step: a generator must not drop part of a draw between blocks.
    shape = (1, 3, 3, 3)
    parts = list(noise_blocks(generators([1, 2], 2), 6, shape, rows))
    assert {part.shape for part in parts} == {(rows, 2, *shape)}
    assert np.array_equal(np.concatenate(parts)[:6], bank([1, 2], 6, shape))


def test_start_and_steps_are_independent() -> None:
    """They are successive draws of one source."""
    shape = (16, 4, 16, 16)
    rngs = generators([3, 4], 2)
    start = standard_normal(rngs, shape)
    steps = next(noise_blocks(rngs, 2, shape, 2))
    draws = [start[0], steps[0, 0], steps[1, 0], steps[0, 1]]
    correlation = np.corrcoef([draw.ravel() for draw in draws]) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(start[0].size)


def test_generators_are_used_as_they_are() -> None:
    one, other = np.random.default_rng(1), np.random.default_rng(2)
    assert generators([one, other], 2) == [one, other]
    assert generators(one, 1) == [one]


def test_seeds_count_up() -> None:
    numbers = [source.integers(1 << 60) for source in generators(7, 3)]
    assert numbers == [source.integers(1 << 60) for source in generators([7, 8, 9], 3)]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (-1, r"`seeds` must be a seed of at least 0, .*got -1"),
        ([0, -1], r"`seeds` must be a seed of at least 0, .*got -1"),
        ([1], r"one seed or generator per video \(2\), got 1"),
        ([1, None], r"got None"),
        (True, r"got True"),
    ],
)
def test_invalid_seeds_are_refused(seeds: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_seeds("seeds", seeds, 2)


def test_frames_first_is_the_noise_of_the_other_layout() -> None:
    """Of the same source, whose state advances equally."""
    source, other = np.random.default_rng(5), np.random.default_rng(5)
    ours = FramesFirst(source.bit_generator).standard_normal((1, 3, 4, 2, 2))
    theirs = other.standard_normal((1, 4, 3, 2, 2))
    np.testing.assert_array_equal(ours, theirs.transpose(0, 2, 1, 3, 4))
    assert source.integers(1 << 60) == other.integers(1 << 60)
