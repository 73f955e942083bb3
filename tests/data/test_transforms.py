"""Resize, crop, flip, range; the reference values are torch's."""

import re
from pathlib import Path

import numpy as np
import pytest

from latte_ms.data.transforms import CROPS, to_pixel_values, to_square


@pytest.mark.parametrize("crop", CROPS)
def test_resize_and_crop_are_the_reference(reference: Path, crop: str):
    with np.load(reference / "resize" / "io.npz") as arrays:
        for i in range(6):
            expected = arrays[f"{i}_{crop}"]
            ours = to_pixel_values(to_square(arrays[f"{i}_frames"], expected.shape[-1], crop))
            assert ours.dtype == np.float32
            assert np.abs(ours - expected).max() <= 1e-5


@pytest.mark.parametrize("side", [98, 196, 214, 237])
@pytest.mark.parametrize("crop", CROPS)
def test_no_side_comes_out_a_pixel_short(side: int, crop: str):
    size = 256
    for shape in ((side, side + 60), (side + 60, side), (side, side)):
        frames = np.zeros((1, *shape, 3), np.uint8)
        assert to_square(frames, size, crop).shape == (1, size, size, 3)


@pytest.mark.parametrize("crop", CROPS)
def test_every_short_side_gives_the_requested_square(crop: str):
    for side in range(2, 90):
        assert to_square(np.zeros((1, side, side + 3, 3), np.uint8), 31, crop).shape[1:3] == (
            31,
            31,
        )


def test_the_right_size_stays_untouched():
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert to_square(frames, 4) is frames


def test_range_layout_and_flip():
    frames = np.zeros((2, 2, 3, 3), np.uint8)
    frames[1, 0, 2] = (255, 0, 51)
    straight, mirrored = to_pixel_values(frames), to_pixel_values(frames, flip=True)
    assert straight.shape == (2, 3, 2, 3)
    assert straight.flags.c_contiguous
    assert np.allclose(straight[1, :, 0, 2], [1.0, -1.0, -0.6], atol=1e-6)
    assert np.array_equal(mirrored, straight[..., ::-1])


def test_an_unknown_crop_is_named():
    with pytest.raises(ValueError, match=re.escape("`crop` must be one of")):
        to_square(np.zeros((1, 4, 4, 3), np.uint8), 2, "random")
