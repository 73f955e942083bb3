"""tools/convert_videos.py: video files to folders of images and back."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from latte_ms.data.video_file import index_video, read_video
from tools import convert_videos

from .conftest import H264, encode, numbered_frame, read_number


def names(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_videos_become_folders_and_come_back(class_folders: Path, tmp_path: Path) -> None:
    frames, back = tmp_path / "frames", tmp_path / "back"
    assert convert_videos.main(["to-frames", str(class_folders), str(frames), "--format=png"]) == 0
    folders = {"ants/0": 20, "ants/1": 20, "ants/2": 20, "bees/0": 12, "bees/1": 12}
    expected = [f"{name}/{i:06d}.png" for name, count in folders.items() for i in range(count)]
    assert names(frames) == sorted([*expected, *(f"{name}/.fps" for name in folders)])
    decoded = read_video(class_folders / "bees" / "1.mp4")
    with Image.open(frames / "bees" / "1" / "000007.png") as image:
        np.testing.assert_array_equal(np.asarray(image), decoded[7])
    assert convert_videos.main(["to-videos", str(frames), str(back)]) == 0
    assert names(back) == [f"{name}.mp4" for name in folders]
    assert [read_number(frame) for frame in read_video(back / "bees" / "1.mp4")] == [*range(12)]
    assert index_video(back / "ants" / "0.mp4").fps == 25


def test_a_conversion_goes_on_and_names_what_it_cannot_read(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "videos", tmp_path / "frames"
    shutil.copytree(class_folders / "bees", source)
    (source / "broken.mp4").write_bytes(b"no")
    arguments = ["to-frames", str(source), str(target), "--quality=80"]
    assert convert_videos.main(arguments) == 1
    printed = capsys.readouterr().out
    assert f"not converted: {source / 'broken.mp4'}: cannot be opened as a video" in printed
    assert "2 converted, 0 were there, 1 failed" in printed
    shutil.rmtree(target / "1")
    (target / f".1.{2**22}.partial").mkdir()  # of a process that was killed
    kept = (target / "0" / "000003.jpg").stat().st_mtime_ns
    assert convert_videos.main(arguments) == 1
    assert "1 converted, 1 were there, 1 failed" in capsys.readouterr().out
    assert {p.name for p in target.iterdir()} == {"0", "1"}
    assert (target / "0" / "000003.jpg").stat().st_mtime_ns == kept
    with Image.open(target / "1" / "000011.jpg") as image:
        assert (image.format, read_number(np.asarray(image))) == ("JPEG", 11)
    assert convert_videos.main([*arguments[:3], "--format=png"]) == 2
    assert f"{target / '0'} has frames of another format, such as" in capsys.readouterr().out


def test_folders_that_are_no_videos_are_named(
    tmp_path: Path, write_frames: object, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, target = tmp_path / "frames", tmp_path / "videos"
    for name in ("good", "mixed", "odd"):
        write_frames(frames / name, 3)
    Image.new("RGB", (32, 32)).save(frames / "mixed" / "frame_2.png")
    Image.new("RGB", (33, 32)).save(frames / "odd" / "frame_0.png")
    assert convert_videos.main(["to-videos", str(frames), str(target)]) == 2
    assert f"{frames / 'good'} does not say its frames per second" in capsys.readouterr().out
    assert convert_videos.main(["to-videos", str(frames), str(target), "--fps=30"]) == 1
    printed = capsys.readouterr().out
    assert f"{frames / 'mixed' / 'frame_2.png'}: differs in size from the first frame" in printed
    assert f"{frames / 'odd'}: `frames` must have even sides for H.264, got 32x33" in printed
    assert names(target) == ["good.mp4"], "nothing half-written is left"
    with av.open(str(target / "good.mp4")) as container:
        assert container.streams.video[0].average_rate == 30


def test_what_would_be_overwritten_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "videos", tmp_path / "frames"
    source.mkdir()
    encode(source / "a.mp4", [numbered_frame(n) for n in range(3)], *H264)
    (target / "a").mkdir(parents=True)
    (target / "a" / "notes.txt").write_text("mine")
    assert convert_videos.main(["to-frames", str(source), str(target)]) == 2
    assert f"{target / 'a'} exists and is not what a conversion has made" in capsys.readouterr().err
    shutil.copy(source / "a.mp4", source / "a.mkv")
    assert convert_videos.main(["to-frames", str(source), str(tmp_path / "new")]) == 2
    assert f"would have the same folder, {tmp_path / 'new' / 'a'}" in capsys.readouterr().err
    (source / "a").mkdir()
    shutil.move(source / "a.mkv", source / "a" / "b.mkv")
    assert convert_videos.main(["to-frames", str(source), str(tmp_path / "new")]) == 2
    assert f"would lie among those of {source / 'a.mp4'}" in capsys.readouterr().err
    assert names(target) == ["a/notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to-frames", "gone", "x"], "`path` is not a folder: gone"),
        (["to-frames", "docs", "x"], "`path` (=docs) holds no video files"),
        (["to-videos", "latte_ms", "x"], "holds no folders of images"),
        (["to-frames", ".", "x", "--quality=0"], "--quality must be 1 to 95, got 0"),
        (["to-videos", ".", "x", "--crf=52"], "--crf must be 0 to 51, got 52"),
        (["to-videos", ".", "x", "--fps=0"], "--fps must be above 0 and at most 1000, got 0.0"),
        (["--num-workers=0", "to-videos", ".", "x"], "--num-workers must be 1 to 1024, got 0"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    try:
        status = convert_videos.main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err
    assert not Path("x").exists()
