"""Position embeddings against their formula, written out element by element."""

import math

import numpy as np
import pytest

from latte_ms.layers import positions


def angle(position: float, k: int, channels: int) -> float:
    return position / 10000 ** (2 * k / channels)


def test_sine_then_cosine() -> None:
    table = positions.sincos_1d(12, np.array([0, 1, 15]))
    assert table.shape == (3, 12)
    assert table.dtype == np.float64
    for row, position in zip(table, (0, 1, 15), strict=True):
        sines = [math.sin(angle(position, k, 12)) for k in range(6)]
        cosines = [math.cos(angle(position, k, 12)) for k in range(6)]
        np.testing.assert_allclose(row, sines + cosines, rtol=0, atol=1e-14)


def test_first_half_of_the_channels_is_the_column() -> None:
    """Rows by columns flattened: token 1 is row 0, column 1."""
    height, width, channels = 3, 5, 16
    table = positions.sincos_2d(channels, np.arange(height), np.arange(width))
    assert table.shape == (height * width, channels)
    for row in range(height):
        for column in range(width):
            wanted = []
            for place in (column, row):
                wanted += [math.sin(angle(place, k, channels // 2)) for k in range(4)]
                wanted += [math.cos(angle(place, k, channels // 2)) for k in range(4)]
            np.testing.assert_allclose(table[row * width + column], wanted, rtol=0, atol=1e-14)


def test_positions_between_the_grid_lie_between_their_neighbours() -> None:
    """Other resolutions are reached by positions that are no whole numbers."""
    table = positions.sincos_1d(8, np.array([1.0, 1.5, 2.0]))
    np.testing.assert_allclose(table[1, 0], math.sin(1.5), atol=1e-14)
    assert table[0, 3] < table[1, 3] < table[2, 3]


def test_timestep_frequencies() -> None:
    frequencies = positions.timestep_frequencies(128)
    assert frequencies.shape == (128,)
    assert frequencies.dtype == np.float32
    expected = [10000 ** (-k / 128) for k in range(128)]
    np.testing.assert_allclose(frequencies, expected, rtol=1e-6)


def test_widths_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`channels` .* must be even, got 7"):
        positions.sincos_1d(7, np.arange(3))
    with pytest.raises(ValueError, match=r"`channels` .* must be divisible by 4, got 6"):
        positions.sincos_2d(6, np.arange(3), np.arange(3))
