"""The judge of colour and shape: right on real clips, and not fooled by clips that change."""

from pathlib import Path

import numpy as np
import pytest

from examples.moving_shapes.appearance import judge_appearance
from examples.moving_shapes.evaluate_shapes import Asked, find_videos, judge, summarise
from examples.moving_shapes.shapes import Clip, draw_clip, seeded_clip
from latte_ms.media import write_mp4


def words(clip: Clip) -> list[str]:
    """Colour and shape of the caption."""
    return clip.caption.split()[1:3]


def clips(count: int) -> list[Clip]:
    return [seeded_clip(5, index % 8, index) for index in range(count)]


def test_real_clips_show_what_their_captions_say() -> None:
    for clip in clips(64):
        seen = judge_appearance(clip.frames)
        assert [seen.colour, seen.shape] == words(clip)
        assert seen.constant_colour
        assert seen.constant_shape


def test_compressed_clips_are_judged_alike(tmp_path: Path) -> None:
    chosen = clips(16)
    for number, clip in enumerate(chosen):
        name = "_".join(clip.caption.split())
        write_mp4(tmp_path / f"{name}_seed{number}.mp4", clip.frames)
    rows = [judge(path, asked) for path, asked in find_videos(tmp_path)]
    report = summarise(rows)
    assert report["count"] == 16
    for key in ("accuracy", "right_colour", "right_shape", "constant_colour", "constant_shape"):
        assert report[key] == 1.0, key
    # The wrong prompt: none of the shares stays.
    for row in rows:
        row["asked_colour"], row["asked_shape"] = "no such colour", "no such shape"
    assert summarise(rows)["right_colour"] == summarise(rows)["right_shape"] == 0.0


def test_a_class_of_a_combination_says_colour_and_shape(tmp_path: Path) -> None:
    for number, label in enumerate((15, 77, 145, 191)):
        clip = seeded_clip(5, label, number, combinations=True)
        write_mp4(tmp_path / f"{label}_seed{number}.mp4", clip.frames)
    videos = find_videos(tmp_path, combinations=True)
    assert {asked for _, asked in videos} == {
        Asked(0, "yellow", "star"),
        Asked(3, "green", "square"),
        Asked(6, "red", "square"),
        Asked(7, "orange", "star"),
    }
    report = summarise([judge(path, asked) for path, asked in videos])
    for key in ("accuracy", "right_colour", "right_shape", "constant_colour", "constant_shape"):
        assert report[key] == 1.0, key
    swapped = [
        (path, other) for (path, _), (_, other) in zip(videos, reversed(videos), strict=True)
    ]
    report = summarise([judge(path, asked) for path, asked in swapped])
    assert report["accuracy"] == report["right_colour"] == 0.0
    with pytest.raises(ValueError, match=r"must begin with a class index in 0\.\.7"):
        find_videos(tmp_path)


@pytest.mark.parametrize("frames", [3, 8])
def test_a_clip_that_turns_into_another_is_not_constant(frames: int) -> None:
    """The last frames show another colour and shape on the same path."""
    found = [draw_clip(0, np.random.default_rng([7, seed]), spread=0.0) for seed in range(40)]
    first = found[0]
    other = next(c for c in found if not set(words(c)) & set(words(first)))
    seen = judge_appearance(np.concatenate([first.frames[:-frames], other.frames[-frames:]]))
    assert not seen.constant_colour
    assert not seen.constant_shape
    assert seen.colour_frames == 16 - frames


def test_without_a_shape_nothing_is_seen() -> None:
    seen = judge_appearance(np.full((16, 64, 64, 3), 200, np.uint8))
    assert (seen.colour, seen.shape, seen.constant_colour, seen.constant_shape) == (
        None,
        None,
        False,
        False,
    )
    with pytest.raises(ValueError, match="`frames` must be"):
        judge_appearance(np.zeros((16, 64, 64), np.uint8))
