"""Noise depends on a sample's own seed: not on the batch, its order, or the size of an upload."""

import numpy as np
import pytest

from latte_ms.diffusion.noise import initial_noise, noise_bank, noise_chunks

SHAPE = (2, 3, 4, 5)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together = noise_bank([7, 8, 9], 6, SHAPE)
    assert together.shape == (6, 3, *SHAPE)
    assert together.dtype == np.float32
    assert np.array_equal(together[:, 1:2], noise_bank([8], 6, SHAPE))
    assert np.array_equal(together[:, ::-1], noise_bank([9, 8, 7], 6, SHAPE))
    assert np.array_equal(initial_noise([7, 8], SHAPE)[1:], initial_noise([8], SHAPE))


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 7])
def test_parts_join_to_the_whole_bank(rows: int) -> None:
    # An odd number of values per step: a generator must not drop half a draw between parts.
    shape = (1, 3, 3, 3)
    parts = list(noise_chunks([1, 2], 6, shape, rows))
    assert {part.shape for part in parts} == {(rows, 2, *shape)}
    assert np.array_equal(np.concatenate(parts)[:6], noise_bank([1, 2], 6, shape))


def test_start_and_steps_are_independent() -> None:
    shape = (16, 4, 16, 16)
    start, bank = initial_noise([3], shape)[0], noise_bank([3, 4], 2, shape)
    draws = [start, bank[0, 0], bank[1, 0], bank[0, 1]]
    correlation = np.corrcoef([draw.ravel() for draw in draws]) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(start.size)


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        initial_noise([0, -1], SHAPE)
