"""Rounding to uint8, and the files that people open: mp4, gif, png and contact sheets."""

import os
import resource
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from latte_ms.data.video_file import index_video, read_video
from latte_ms.media import (
    check_formats,
    contact_sheet,
    file_stems,
    is_saved,
    prepare_folder,
    save_video,
    to_uint8,
    to_unit,
    write_gif,
    write_mp4,
    write_png,
)
from latte_ms.metrics.clips import find_videos

FRAMES, HEIGHT, WIDTH = 16, 32, 48


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """A bright bar moves over a dark ground."""
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 30, np.uint8)
    for i in range(FRAMES):
        frames[i, :, 3 * i : 3 * i + 3] = (240, 60, 60)
    return frames


def grey_frames(count: int, height: int = 40, width: int = 24) -> np.ndarray:
    """Frame i is a plain grey of level 20 + 40 i."""
    levels = np.arange(20, 20 + 40 * count, 40, np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))


def frame_numbers(path: Path) -> list[int]:
    """The i of each of `grey_frames` in a file."""
    return [round((frame.mean() - 20) / 40) for frame in read_video(path)]


def test_uint8_rounds_half_up() -> None:
    values = np.concatenate((np.linspace(-1.2, 1.2, 4801), [-1, 1])).astype(np.float32)
    levels = to_uint8(to_unit(values))
    assert levels.dtype == np.uint8
    assert levels.shape == values.shape
    nearest = np.floor(np.clip((values.astype(np.float64) * 0.5 + 0.5) * 255 + 0.5, 0, 255))
    assert np.abs(levels - nearest).max() <= 1  # float32 at exact halves
    assert (levels == nearest).mean() > 0.99
    assert levels[-2:].tolist() == [0, 255]
    halves = (np.arange(4, dtype=np.float32) + 0.5) / 255
    assert to_uint8(halves).tolist() == [1, 2, 3, 4], "not to the even number"
    assert to_uint8(np.array([-0.3, 1.7])).tolist() == [0, 255]


def test_uint8_returns_what_was_normalised() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_uint8(to_unit(levels.astype(np.float32) / 127.5 - 1)), levels)
    np.testing.assert_array_equal(to_uint8(levels / np.float32(255)), levels)


def test_unit_values_are_clamped_float32() -> None:
    values = to_unit(np.array([[-3.0, -1.0], [0.0, 2.0]]))
    assert values.dtype == np.float32
    assert values.tolist() == [[0.0, 0.0], [0.5, 1.0]]


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
    with Image.open(path) as image:
        assert image.n_frames == FRAMES
        assert image.size == (WIDTH, HEIGHT)
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0
        image.seek(5)
        frame = np.asarray(image.convert("RGB"))
    assert np.abs(frame.astype(int) - video[5]).max() <= 8


def test_several_formats_are_written_at_once(video: np.ndarray, tmp_path: Path) -> None:
    written = save_video(tmp_path / "3_seed7", video, ["mp4", "gif", "png"], 8.0)
    assert [path.name for path in written] == ["3_seed7.mp4", "3_seed7.gif", "3_seed7.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(path.name for path in written)


def test_a_png_shows_the_frames_side_by_side(video: np.ndarray, tmp_path: Path) -> None:
    (path,) = save_video(tmp_path / "a", video[:3], ["png"], 8.0)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.concatenate(list(video[:3]), axis=1))


@pytest.mark.parametrize(("name", "suffix"), [("frames", "png"), ("frames_jpg", "jpg")])
def test_frames_are_a_folder_that_the_reader_reads(
    video: np.ndarray, tmp_path: Path, name: str, suffix: str
) -> None:
    """In the layout of converted data sets; PNG exactly, JPEG without subsampled colours."""
    stem = tmp_path / "0007"
    assert not is_saved(stem, ["mp4", name])
    written = save_video(stem, video, ["mp4", name], 8.0)
    assert written == [tmp_path / "0007.mp4", stem]
    assert is_saved(stem, ["mp4", name])
    names = sorted(path.name for path in stem.iterdir())
    assert names == [".fps", *(f"{number:06d}.{suffix}" for number in range(FRAMES))]
    assert (stem / ".fps").read_text() == "8\n"
    (source,) = find_videos(tmp_path, "frames")
    assert source.num_frames() == FRAMES
    error = np.abs(source.read(range(FRAMES)).astype(int) - video)
    assert error.max() == 0 if suffix == "png" else error.mean() < 3
    save_video(stem, video[:2], [name], 8.0)
    assert len(list(stem.glob(f"*.{suffix}"))) == 2, "the folder is replaced as a whole"


def test_frames_that_cannot_be_written_leave_nothing(video: np.ndarray, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=r"0000 cannot be written: File too large"):
            save_video(tmp_path / "0000", video, ["frames"], 8.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_rate_factor_sets_the_size_of_an_mp4(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    sizes = []
    for crf in (0, 8, 40):
        (path,) = save_video(tmp_path / f"{crf}", frames, ["mp4"], 8.0, crf)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("formats", [["frames", "frames_jpg"], ["png", "mp4", "frames"]])
def test_images_that_would_be_mixed_up_are_refused(formats: list[str]) -> None:
    with pytest.raises(ValueError, match="`formats` must have at most one of frames and frames_jp"):
        check_formats(formats, 8.0)


@pytest.mark.parametrize("formats", [[], ["mp4", "webm"]])
def test_unknown_formats_are_named(formats: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`formats` must be one or more of .*got"):
        check_formats(formats, 8.0)


@pytest.mark.parametrize(
    ("formats", "fps", "limit"),
    [
        (["gif"], 120, 100),
        (["mp4", "gif"], 100.5, 100),
        (["mp4"], 1001, 1000),
        (["mp4"], 0, 1000),
        (["gif"], -1, 100),
        (["png"], float("nan"), 1000),
    ],
)
def test_rates_that_cannot_be_written_are_named(
    formats: list[str], fps: float, limit: int, video: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=rf"`fps` must be above 0 and at most {limit} .*, got {fps}"
    ):
        save_video(tmp_path / "a", video, formats, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [8, 10, 15, 24, 29.97, 30, 50, 60, 100])
def test_a_gif_has_the_right_length(tmp_path: Path, fps: float) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    write_gif(tmp_path / "a.gif", frames, fps)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 60
        delays = []
        for number in range(60):
            image.seek(number)
            delays.append(image.info["duration"])
    assert abs(sum(delays) - 60_000 / fps) <= 5
    assert max(abs(delay - 1000 / fps) for delay in delays) < 10
    assert min(delays) >= 10


@pytest.mark.parametrize("fps", [8, 12.5, 23.976, 24000 / 1001, 29.97, 30000 / 1001, 59.94, 60])
def test_an_mp4_has_exactly_its_rate(tmp_path: Path, fps: float) -> None:
    write_mp4(tmp_path / "a.mp4", grey_frames(5), fps)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(fps).limit_denominator(1001)


@pytest.mark.parametrize("size", [(64, 96), (720, 1280), (2, 2)])
@pytest.mark.parametrize("colour", [(200, 60, 30), (20, 90, 240), (255, 255, 255), (128, 128, 128)])
def test_colours_come_back_at_every_size(
    tmp_path: Path, size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, np.full((2, *size, 3), colour, np.uint8))
    assert np.abs(read_video(path).astype(int) - colour).max() <= 2
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "rawvideo"]
    output = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    decoded = np.frombuffer(output.stdout, np.uint8).reshape(2, *size, 3)
    assert np.abs(decoded.astype(int) - colour).max() <= 2
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        tags = (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range)
    assert tags == (1, 1, 1, 1), "BT.709, limited range"


def test_mp4_frames_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, grey_frames(5), fps=12.5)
    assert frame_numbers(path) == list(range(5))
    assert index_video(path).fps == 12.5
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [(40, 24), (2, 2), (66, 130)])
def test_an_mp4_keeps_every_size(tmp_path: Path, size: tuple[int, int]) -> None:
    write_mp4(tmp_path / "a.mp4", grey_frames(1, *size))
    assert read_video(tmp_path / "a.mp4").shape == (1, *size, 3)


def test_a_strided_view_is_written_right(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", grey_frames(6)[::-2])
    assert frame_numbers(tmp_path / "a.mp4") == [5, 3, 1]


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 41, 24, 3), np.uint8, "even sides for H.264, got 41x24"),
        ((2, 40, 24), np.uint8, r"\(F, H, W, 3\) uint8"),
        ((0, 40, 24, 3), np.uint8, "F >= 1"),
        ((2, 40, 24, 3), np.float32, "got .* float32"),
    ],
)
def test_frames_that_h264_cannot_hold_are_named(
    tmp_path: Path, shape: tuple[int, ...], dtype: type, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "a.mp4", np.zeros(shape, dtype))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"long\.mp4 cannot be written: .+"):
        write_mp4(tmp_path / "long.mp4", grey_frames(1, 2, 32768))  # x264's limit is half of it
    assert list(tmp_path.iterdir()) == []
    for name, write in (("taken.mp4", write_mp4), ("taken.png", write_png)):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match=name):
            write(tmp_path / name, grey_frames(1) if write is write_mp4 else grey_frames(1)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.mp4", "taken.png"]


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_takes_a_part(tmp_path: Path, suffix: str, there: bool) -> None:
    """Whatever fits, the error names the file and nothing is left of it."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8)
    stem, path = tmp_path / "a", tmp_path / f"a.{suffix}"
    whole = save_video(tmp_path / "whole" / "a", noise, [suffix], 8.0)[0].stat().st_size
    if there:
        path.write_bytes(b"earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 1000, 8192, whole // 2, whole - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(OSError, match=rf"a\.{suffix} cannot be written: .*File too large"):
                save_video(stem, noise, [suffix], 8.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name] * there
        assert not there or path.read_bytes() == b"earlier"


def test_a_contact_sheet_has_a_row_per_video(video: np.ndarray) -> None:
    sheet = contact_sheet([video, video[::-1]], ["first", "second"], columns=4)
    assert sheet.shape == (2 * (HEIGHT + 14 + 4) + 4, 4 * (WIDTH + 4) + 4, 3)
    top, left = 4 + 14, 4
    np.testing.assert_array_equal(sheet[top : top + HEIGHT, left : left + WIDTH], video[0])
    last = left + 3 * (WIDTH + 4)
    np.testing.assert_array_equal(sheet[top : top + HEIGHT, last : last + WIDTH], video[-1])
    second = top + HEIGHT + 14 + 4
    np.testing.assert_array_equal(sheet[second : second + HEIGHT, left : left + WIDTH], video[-1])


def test_a_short_video_fills_no_more_columns_than_it_has_frames(video: np.ndarray) -> None:
    assert contact_sheet([video[:3]], ["a"]).shape[1] == 3 * (WIDTH + 4) + 4
    assert contact_sheet([video[:1]], ["a"]).shape[1] == WIDTH + 8


@pytest.mark.parametrize(("videos", "titles"), [(0, []), (2, ["one"])])
def test_each_row_needs_a_title(video: np.ndarray, videos: int, titles: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`videos` .* and `titles` .* must pair up"):
        contact_sheet([video] * videos, titles)


def test_videos_of_different_sizes_do_not_share_a_sheet(video: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`videos` must have the same shape"):
        contact_sheet([video, video[:, :16]], ["a", "b"])


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a").rglob("*")) == [tmp_path / "a" / "b"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(OSError, match=rf"`output` must be a folder .*, got .*{name}: "):
            prepare_folder(tmp_path / name)


def test_a_folder_of_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:  # who may write anywhere
        os.seteuid(65534)
    try:
        with pytest.raises(OSError, match=r"`output` must be a folder .*: Permission denied"):
            prepare_folder(tmp_path)
    finally:
        os.seteuid(user)


def test_a_disk_without_room(tmp_path: Path) -> None:
    """A file may be made, and nothing written to it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=r"`output` must be a folder .*: File too large"):
            prepare_folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_are_named_after_prompts() -> None:
    prompts = ["A cat, wearing sunglasses.", "a-b", "a b!", "A B", "猫", "...", "../../etc/passwd"]
    names = ["A_cat_wearing_sunglasses", "a_b", "a_b_2", "A_B_3", "猫", "prompt", "etc_passwd"]
    assert list(file_stems(prompts).values()) == names
    long = file_stems(["word " * 40 + end for end in ("one", "two")] + ["猫" * 100])
    assert max(len(name.encode()) for name in long.values()) <= 122
    assert len(set(long.values())) == 3
