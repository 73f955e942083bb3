"""Exact frames out of every container, damaged files, and both decoders."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latte_ms.data.video_file import (
    DecodeError,
    decode_all,
    decord_or_none,
    index_video,
    read_frames,
    read_video,
    read_with_decord,
    read_with_pyav,
)

from .conftest import H264, convert, encode, numbered_frame, read_number

LENGTH = 90
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3", "-g", "12")
# name: (output options, length); H.264 and MPEG-4 with B-frames show frames in another order than
# they store them, and with an open group of frames even across a keyframe.
KINDS = {
    "closed.mp4": (*H264, "-g", "20"),
    "open.mp4": (*H264, "-g", "20", "-bf", "2", "-x264-params", "open-gop=1"),
    "one_key.mkv": (*H264, "-g", "500"),
    "intra.mp4": (*H264, "-g", "1"),
    "plain.avi": (*MPEG4, "-vtag", "XVID"),
    "b_frames.avi": (*MPEG4, "-bf", "2", "-vtag", "XVID"),
    "h264.avi": (*H264, "-g", "20"),
    "program.mpg": ("-c:v", "mpeg2video", "-q:v", "3", "-bf", "2"),
    "transport.ts": (*H264, "-g", "20"),
    "image.gif": (),
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    frames = [numbered_frame(i) for i in range(LENGTH)]
    for name, options in KINDS.items():
        encode(folder / name, frames, *options)
    return folder


def numbers(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_the_requested_frames_are_returned(videos: Path, name: str, decoder: str):
    index = index_video(videos / name)
    assert index.num_frames == LENGTH
    assert index.fps == pytest.approx(25, rel=0.01)
    rng = np.random.default_rng(0)
    windows = [start + np.arange(8) * 3 for start in rng.integers(0, LENGTH - 22, 12)]
    windows += [np.array([LENGTH - 1]), np.sort(rng.choice(LENGTH, 6, replace=False))]
    for requested in windows:
        frames = read_frames(videos / name, requested, index, decoder)
        assert numbers(frames) == requested.tolist()


def test_any_order_and_repetition(videos: Path):
    requested = [70, 3, 3, 41]
    assert numbers(read_frames(videos / "closed.mp4", requested)) == requested


def test_an_edit_list_hides_frames(videos: Path, tmp_path: Path):
    cut = convert(videos / "open.mp4", tmp_path / "cut.mp4", "-c", "copy", before=("-ss", "1.0"))
    shown = numbers(read_video(cut))
    assert shown == list(range(shown[0], LENGTH))
    assert index_video(cut).num_frames == len(shown)
    assert numbers(read_frames(cut, [0, 5, len(shown) - 1])) == [shown[0], shown[5], shown[-1]]


def test_variable_frame_rate_counts_frames_not_time(videos: Path, tmp_path: Path):
    keep = "select='not(mod(n,7))+not(mod(n,3))'"
    sparse = convert(
        videos / "one_key.mkv", tmp_path / "sparse.mp4", "-vf", keep, "-fps_mode", "vfr", *H264
    )
    expected = [i for i in range(LENGTH) if i % 7 == 0 or i % 3 == 0]
    assert index_video(sparse).num_frames == len(expected)
    requested = [1, 10, 20, len(expected) - 1]
    assert numbers(read_frames(sparse, requested)) == [expected[i] for i in requested]


def test_a_rotated_video_comes_upright(tmp_path: Path):
    flat = encode(tmp_path / "flat.mp4", [numbered_frame(i, 96) for i in range(4)], *H264)
    turned = convert(
        flat, tmp_path / "turned.mp4", "-c", "copy", before=("-display_rotation", "90")
    )
    upright = np.rot90(read_frames(flat, [2]), axes=(1, 2))
    for decoder in ("auto", "pyav"):
        assert np.array_equal(read_frames(turned, [2], decoder=decoder), upright)


@pytest.mark.skipif(decord_or_none() is None, reason="decord is not installed")
@pytest.mark.parametrize("name", ["closed.mp4", "one_key.mkv", "intra.mp4"])
def test_both_decoders_give_equal_pixels(videos: Path, name: str):
    index = index_video(videos / name)
    assert index.exact_in_decord
    for start in (0, 13, 40, LENGTH - 22):
        requested = start + np.arange(8) * 3
        ours = read_with_pyav(videos / name, requested, index)
        assert np.array_equal(read_with_decord(videos / name, requested), ours)


@pytest.mark.parametrize("name", ["open.mp4", "b_frames.avi", "h264.avi", "program.mpg"])
def test_decord_does_not_read_files_it_seeks_wrongly(videos: Path, name: str):
    assert not index_video(videos / name).exact_in_decord


def test_only_the_needed_part_is_decoded(videos: Path, tmp_path: Path):
    """With a keyframe's data destroyed, frames before and behind that group are still read."""
    path = tmp_path / "holed.mp4"
    data = bytearray((videos / "closed.mp4").read_bytes())
    start = data.index(b"mdat")
    middle = start + (data.index(b"moov") - start) // 2
    data[middle - 300 : middle + 300] = bytes(600)
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"holed.mp4: "):
        list(decode_all(path))
    assert numbers(read_frames(path, [0, 5], decoder="pyav")) == [0, 5]
    assert numbers(read_frames(path, [82, 88], decoder="pyav")) == [82, 88]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("empty.mp4", lambda data: b""),
        ("text.mp4", lambda data: b"no video at all\n" * 50),
        ("truncated.mp4", lambda data: data[: len(data) // 2]),  # the table at the end is gone
    ],
)
def test_a_file_that_is_no_video_is_named(videos: Path, tmp_path: Path, name: str, damage):
    path = tmp_path / name
    path.write_bytes(damage((videos / "closed.mp4").read_bytes()))
    with pytest.raises(DecodeError, match=f"{name}: cannot be opened as a video"):
        index_video(path)


def test_missing_file_and_frames_out_of_range(videos: Path, tmp_path: Path):
    with pytest.raises(DecodeError, match=r"gone.mp4: cannot be opened"):
        read_frames(tmp_path / "gone.mp4", [0])
    for requested in ([LENGTH], [-1], []):
        with pytest.raises(DecodeError, match=f"has {LENGTH} frames"):
            read_frames(videos / "closed.mp4", requested)
    with pytest.raises(ValueError, match="`decoder` must be one of"):
        read_frames(videos / "closed.mp4", [0], decoder="opencv")


@pytest.mark.parametrize("error", ["ImportError('no wheel')", "OSError('wrong library')"])
def test_pyav_takes_over_where_decord_fails_to_import(videos: Path, tmp_path: Path, error: str):
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord" / "__init__.py").write_text(f"raise {error}\n")
    code = (
        "from latte_ms.data.video_file import decord_or_none, read_frames; import numpy as np; "
        "assert decord_or_none() is None; "
        f"np.save({str(tmp_path / 'frames.npy')!r}, "
        f"read_frames({str(videos / 'closed.mp4')!r}, [4, 50]))"
    )
    search = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": search}, check=True
    )
    assert np.array_equal(
        np.load(tmp_path / "frames.npy"), read_frames(videos / "closed.mp4", [4, 50])
    )
