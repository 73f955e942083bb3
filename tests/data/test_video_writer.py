"""mp4 files: size as given, whole or not there at all."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms.data.video_file import index_video, read_video
from latte_ms.data.video_writer import write_mp4

from .conftest import numbered_frame, read_number


def test_frames_come_back(tmp_path: Path):
    frames = np.stack([numbered_frame(i) for i in range(5)])
    write_mp4(tmp_path / "a.mp4", frames, fps=12.5)
    assert [read_number(frame) for frame in read_video(tmp_path / "a.mp4")] == list(range(5))
    assert index_video(tmp_path / "a.mp4").fps == 12.5
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size", [(40, 24), (2, 2), (66, 130)])
def test_no_size_is_changed(tmp_path: Path, size: tuple[int, int]):
    write_mp4(tmp_path / "a.mp4", np.full((1, *size, 3), 90, np.uint8))
    assert read_video(tmp_path / "a.mp4").shape == (1, *size, 3)


def test_a_strided_view_is_written_right(tmp_path: Path):
    frames = np.stack([numbered_frame(i) for i in range(6)])
    write_mp4(tmp_path / "a.mp4", frames[::-2])
    assert [read_number(frame) for frame in read_video(tmp_path / "a.mp4")] == [5, 3, 1]


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((2, 41, 24, 3), np.uint8, "even sides for H.264, got 41x24"),
        ((2, 40, 24), np.uint8, r"\(F, H, W, 3\) uint8"),
        ((0, 40, 24, 3), np.uint8, "F >= 1"),
        ((2, 40, 24, 3), np.float32, "got .* float32"),
    ],
)
def test_wrong_frames_are_named(tmp_path: Path, shape: tuple[int, ...], kind: type, message: str):
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "a.mp4", np.zeros(shape, kind))


def test_a_failure_is_an_error_and_leaves_nothing(tmp_path: Path):
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(OSError, match=r"gone/a.mp4: cannot be written"):
        write_mp4(tmp_path / "gone" / "a.mp4", frames)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(OSError, match=r"taken\.mp4"):
        write_mp4(tmp_path / "taken.mp4", frames)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.mp4"]
