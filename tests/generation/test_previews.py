"""Previews of a training run: their options, and how their videos are laid out."""

import numpy as np
import pytest

from latte_ms.generation.previews import tiled
from latte_ms.training.preview_recipe import PreviewConfig


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 1, 4), (6, 2, 4)])
def test_videos_are_laid_out_in_rows_of_four(count: int, rows: int, columns: int) -> None:
    videos = [np.full((5, 2, 6, 3), i + 1, np.uint8) for i in range(count)]
    frames = tiled(videos)
    assert frames.shape == (5, 2 * rows, 6 * columns, 3)
    numbers = [*range(1, count + 1), *[0] * (rows * columns - count)]
    np.testing.assert_array_equal(frames[3, ::2, ::6, 0].ravel(), numbers)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("every", -1),
        ("num_videos", 0),
        ("num_steps", 0),
        ("guidance_scale", 0.5),
        ("entry", "best"),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"`preview.{field}`.*{value}"):
        PreviewConfig(**{field: value})  # type: ignore[arg-type]
