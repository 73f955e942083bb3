"""Files that people open: mp4, gif and the contact sheet."""

import os
import resource
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from latte_ms.generation.output import check_formats, contact_sheet, prepare_folder, save_video

FRAMES, HEIGHT, WIDTH = 16, 32, 48


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """A bright bar moves over a dark ground."""
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 30, np.uint8)
    for i in range(FRAMES):
        frames[i, :, 3 * i : 3 * i + 3] = (240, 60, 60)
    return frames


def test_an_mp4_is_h264_at_its_rate(video: np.ndarray, tmp_path: Path) -> None:
    written = save_video(tmp_path / "deep" / "a.b", video, ["mp4"], 8.0)
    assert written == [tmp_path / "deep" / "a.b.mp4"], "dots of the name stay"
    with av.open(str(written[0])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p", "what every player shows"
        assert stream.average_rate == 8
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == video.shape
    assert np.abs(decoded.astype(int) - video).mean() < 8


def test_a_gif_shows_all_frames_for_ever(video: np.ndarray, tmp_path: Path) -> None:
    (path,) = save_video(tmp_path / "a", video, ["gif"], 10.0)
    with Image.open(path) as picture:
        assert picture.n_frames == FRAMES
        assert picture.size == (WIDTH, HEIGHT)
        assert picture.info["duration"] == 100
        assert picture.info["loop"] == 0
        picture.seek(5)
        frame = np.asarray(picture.convert("RGB"))
    assert np.abs(frame.astype(int) - video[5]).max() <= 8


def test_several_formats_are_written_at_once(video: np.ndarray, tmp_path: Path) -> None:
    written = save_video(tmp_path / "3_seed7", video, ["mp4", "gif"], 8.0)
    assert [path.name for path in written] == ["3_seed7.mp4", "3_seed7.gif"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3_seed7.gif", "3_seed7.mp4"]


@pytest.mark.parametrize("formats", [[], ["mp4", "webm"]])
def test_unknown_formats_are_named(formats: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`formats` must be some of .*got"):
        check_formats(formats)


def test_a_size_that_h264_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides"):
        save_video(tmp_path / "a", np.zeros((2, 15, 16, 3), np.uint8), ["mp4"], 8.0)


def test_a_contact_sheet_has_a_row_per_video(video: np.ndarray) -> None:
    sheet = contact_sheet([video, video[::-1]], ["first", "second"], columns=4)
    assert sheet.size == (4 * (WIDTH + 4) + 4, 2 * (HEIGHT + 14 + 4) + 4)
    pixels = np.asarray(sheet)
    top, left = 4 + 14, 4
    np.testing.assert_array_equal(pixels[top : top + HEIGHT, left : left + WIDTH], video[0])
    last = left + 3 * (WIDTH + 4)
    np.testing.assert_array_equal(pixels[top : top + HEIGHT, last : last + WIDTH], video[-1])
    second = top + HEIGHT + 14 + 4
    np.testing.assert_array_equal(pixels[second : second + HEIGHT, left : left + WIDTH], video[-1])


def test_a_short_video_fills_no_more_columns_than_it_has_frames(video: np.ndarray) -> None:
    assert contact_sheet([video[:3]], ["a"]).size[0] == 3 * (WIDTH + 4) + 4
    assert contact_sheet([video[:1]], ["a"]).size[0] == WIDTH + 8


@pytest.mark.parametrize(("videos", "titles"), [(0, []), (2, ["one"])])
def test_each_row_needs_a_title(video: np.ndarray, videos: int, titles: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`videos` .* and `titles` .* must pair up"):
        contact_sheet([video] * videos, titles)


def test_videos_of_different_sizes_do_not_share_a_sheet(video: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`videos` must be of one shape"):
        contact_sheet([video, video[:, :16]], ["a", "b"])


# The folder, and those who fill it together.


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a").rglob("*")) == [tmp_path / "a" / "b"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(OSError, match=rf"`output` must be a folder .*, got .*{name}: "):
            prepare_folder(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"`output` must be a folder .*: Permission denied"):
        prepare_folder(tmp_path)


def test_a_disk_without_room(tmp_path: Path) -> None:
    """A file may be made, and nothing written to it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=r"`output` must be a folder .*: File too large"):
            prepare_folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
