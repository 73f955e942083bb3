"""Files with unusual names, streams, sizes and contents: read right, or named and refused."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from latte_ms.data.datasets import DataConfig, VideoDataset
from latte_ms.data.video_file import DecodeError, index_video, read_frames, read_video

from .conftest import H264, convert, encode, generate, numbered_frame, read_number
from .fuzz_videos import mutants

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 numbered frames."""
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    return encode(path, [numbered_frame(i, 96) for i in range(20)], *H264)


def numbers(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


NAMES = (
    *("clip:1.mp4", "-a.mp4", "a%d.mp4", "a%03d.gif", "concat:a|b.mp4", "file:a.mp4", "é.mp4"),
    *("http:a.mp4", "a\nb.mp4", "[*?].mp4", os.fsdecode(b"\xff\xe9.mp4")),
)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read(plain: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / name).write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert numbers(read_frames(name, [0, 13])) == [0, 13]
    dataset = VideoDataset(DataConfig(".", image_size=16, num_frames=2))
    assert dataset.names == [name]


def make_strange(folder: Path, plain: Path) -> dict[str, str]:
    """Files that cannot be read, and what is said about each."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "link.mp4").symlink_to("gone")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "empty.mp4").touch()
    codec = plain.read_bytes().replace(b"avc1", b"zzzz")
    (folder / "codec.mp4").write_bytes(codec)
    target = plain.resolve().as_uri()
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n")
    (folder / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {plain}\n")
    generate(folder / "large.mp4", *H264, "-frames:v", "1", source="color=s=8192x8192:r=25")
    generate(folder / "wide.mp4", *H264, "-vf", "setsar=20", source="testsrc2=s=64x64:d=0.1")
    generate(folder / "sound.mp4", source="sine=d=0.2")
    return {
        "pipe.mp4": "is not a file",
        "folder.mp4": "Is a directory",
        "link.mp4": "No such file",
        "device.mp4": "is not a file",
        "empty.mp4": "Invalid data",
        "codec.mp4": "the codec of its video stream is unknown",
        "list.mp4": "cannot be opened",
        "concat.mp4": "cannot be opened",
        "large.mp4": "its frames are 8192x8192, more than 9437184 pixels",
        "wide.mp4": "its pixels are 20 times as wide as high",
        "sound.mp4": "has no video stream",
    }


def test_strange_files_are_named_and_skipped(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    reasons = make_strange(tmp_path, plain)
    for name, reason in reasons.items():
        with pytest.raises(DecodeError, match=f"{name}: .*{reason}"):
            index_video(tmp_path / name)
    (tmp_path / "whole.mp4").write_bytes(plain.read_bytes())
    dataset = VideoDataset(DataConfig(str(tmp_path), image_size=16, num_frames=2))
    rng = np.random.default_rng(0)
    for number in range(len(dataset)):
        dataset.item(number, rng)
    warnings = {record.getMessage() for record in caplog.records}
    skipped = set(reasons) - {"folder.mp4"}  # may hold videos, is none
    assert len(warnings) == len(skipped)
    assert all(any(f"{name}: " in message for message in warnings) for name in skipped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(plain: Path, tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(plain.read_bytes())
    path.chmod(0)
    with pytest.raises(DecodeError, match=r"a.mp4: .*Permission denied"):
        index_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cover_image_is_no_video(plain: Path, tmp_path: Path, suffix: str):
    cover = tmp_path / "cover.png"
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(cover)
    options: tuple[str, ...] = ("-attach", str(cover), "-metadata:s:t", "mimetype=image/png")
    before: tuple[str, ...] = ()
    if suffix == "mp4":
        before = ("-i", str(cover))
        options = ("-map", "0", "-map", "1", "-disposition:v:0", "attached_pic")
    generate(tmp_path / "sound.m4a", source="sine=d=0.2")
    for name, source in (("film", plain), ("song", tmp_path / "sound.m4a")):
        convert(source, tmp_path / f"{name}.{suffix}", "-c", "copy", *options, before=before)
    assert numbers(read_video(tmp_path / f"film.{suffix}")) == list(range(20))
    with pytest.raises(DecodeError, match=rf"song.{suffix}: has no video stream"):
        index_video(tmp_path / f"song.{suffix}")


@pytest.mark.parametrize("options", ["", "-x264-params open-gop=1", "-f matroska"])
def test_decoding_begins_at_the_keyframe_of_the_window(tmp_path: Path, options: str):
    """Everything before that keyframe is destroyed; the window is read all the same."""
    frames = [numbered_frame(i) for i in range(120)]
    path = encode(
        tmp_path / "a.mp4",
        frames,
        *H264,
        "-g",
        "40",
        "-bf",
        "3",
        "-sc_threshold",
        "0",
        *options.split(),
    )
    index = index_video(path)
    assert len(index.key_times) == 3
    whole = {key: read_frames(path, range(key, key + 16), index) for key in (40, 80)}
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size, packet.is_keyframe) for packet in packets]
    starts = [number for number, place in enumerate(places) if place[2]]
    for key, start in zip((40, 80), starts[1:], strict=True):
        data = bytearray(path.read_bytes())
        for place, size, _ in places[:start]:
            data[place + 8 : place + size] = bytes(max(0, size - 8))
        (tmp_path / "damaged.mp4").write_bytes(data)
        damaged = read_frames(tmp_path / "damaged.mp4", range(key, key + 16), index)
        assert np.array_equal(damaged, whole[key])


def test_packets_that_show_nothing_are_not_counted(tmp_path: Path):
    """libvpx stores frames that others refer to as packets of their own (VP8)."""
    path = Path(__file__).parent / "files" / "altref.webm"
    with av.open(str(path)) as container:
        assert sum(bool(packet.size) for packet in container.demux(video=0)) == 42
    index = index_video(path)
    assert (index.num_frames, index.seekable, len(read_video(path))) == (40, True, 40)
    assert len(read_frames(path, range(24, 40), index)) == 16


def test_a_size_that_changes_on_the_way(tmp_path: Path):
    """All frames have the size of the first, as ffmpeg's."""
    for number, side in enumerate((64, 96)):
        options = (*H264, "-bsf:v", "h264_mp4toannexb", "-f", "h264")
        source = f"testsrc2=s={side}x64:r=25:d=0.4"
        generate(tmp_path / f"{number}.h264", *options, source=source)
    path = tmp_path / "a.h264"
    path.write_bytes(b"".join((tmp_path / f"{i}.h264").read_bytes() for i in range(2)))
    assert read_video(path).shape == (20, 64, 64, 3)


SOURCES = {
    "a.mp4": "-c:v libx264 -bf 2 -g 6",
    "b.mkv": "-c:v libx264 -g 6",
    "c.webm": "-c:v libvpx -b:v 100k",
    "d.avi": "-c:v mpeg4 -bf 2 -g 6",
    "e.ts": "-c:v mpeg2video -g 6",
    "f.gif": "",
    "g.mov": "-c:v prores",
    "h.mpg": "-c:v mpeg1video",
    "i.wmv": "-c:v wmv2",
    "j.flv": "-c:v flv",
    "k.ogv": "-c:v libtheora",
    "l.mp4": "-c:v libvpx-vp9 -b:v 100k -cpu-used 8",
    "m.mkv": "-c:v libsvtav1 -preset 12",
    "n.mov": "-c:v mjpeg -movflags +faststart",
    "o.mp4": "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=none",
}


@pytest.mark.extended
def test_mutated_videos_are_read_or_refused(tmp_path: Path):
    """300 files: no other exception than DecodeError, none over 10 s, none over 1 GB."""
    folder = tmp_path / "mutants"
    folder.mkdir()
    for name, options in SOURCES.items():
        generate(tmp_path / name, *options.split(), source="testsrc2=s=64x64:r=25:d=0.5")
    sources = [tmp_path / name for name in SOURCES]
    for name, data in mutants(sources, 300, seed=0):
        (folder / name).write_bytes(data)
    command = [sys.executable, str(Path(__file__).parent / "fuzz_videos.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, (result.returncode, lines[-1:], result.stderr[-2000:])
    read, refused, memory = map(int, lines[-1].split())
    assert read + refused == 300
    assert read >= 20
    assert refused >= 20
    assert memory < 1000
