"""tools/check_data.py: every file is decoded once, before training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import H264, encode, numbered_frame

ROOT = Path(__file__).parents[2]


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "check_data.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_clean_set(class_folders: Path):
    result = check(str(class_folders), "classes=true", "num_frames=4", "image_size=64")
    assert result.returncode == 0, result.stderr
    assert "5 usable, 0 too short, 0 broken" in result.stdout
    assert "sizes: 96x64 (5)" in result.stdout
    assert "frames: 12 to 20, median 20" in result.stdout
    assert "frames per second: 25 (5)" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["0", "ants", "3", "of", "3"] in lines
    assert ["1", "bees", "2", "of", "2"] in lines


def test_every_problem_is_listed(tmp_path: Path, class_folders: Path):
    good = class_folders / "ants" / "0.mp4"
    (tmp_path / "good.mp4").write_bytes(good.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no")
    (tmp_path / os.fsdecode(b"\xff\xe9.mp4")).write_bytes(b"no")
    encode(tmp_path / "short.mp4", [numbered_frame(n) for n in range(5)], *H264)
    result = check(str(tmp_path), "num_frames=4", "data.frame_interval=2", "image_size=256")
    assert result.returncode == 1
    assert "1 usable, 1 too short, 2 broken" in result.stdout
    assert r"\udcff\udce9.mp4: cannot be opened" in result.stdout
    assert "broken.mp4: cannot be opened" in result.stdout
    assert "short.mp4: 5 frames, 7 needed" in result.stdout
    assert "2 are smaller than image_size 256" in result.stdout
    (tmp_path / "good.mp4").unlink()
    assert check(str(tmp_path), "num_frames=16").returncode == 2


def test_folders_of_images(tmp_path: Path, write_frames):
    write_frames(tmp_path / "a", 5)
    write_frames(tmp_path / "b", 3)
    result = check(str(tmp_path), "kind=frames", "num_frames=4", "frame_interval=1")
    assert result.returncode == 1
    assert "1 usable, 1 too short, 0 broken" in result.stdout
    assert "frames per second: unknown" in result.stdout


def test_a_list_of_the_images_of_usable_folders(tmp_path: Path, write_frames):
    """A line per image, as upstream's joint training joins it to the folder of its images."""
    for name, count in (("v_Run_g1", 10), ("sub/v_Jump_g1", 4), ("short", 3)):
        write_frames(tmp_path / "set" / name, count)
    target = tmp_path / "train_list.txt"
    options = ["kind=frames", "num_frames=4", "frame_interval=1", "--list", str(target)]
    result = check(str(tmp_path / "set"), *options)
    assert result.returncode == 1, result.stderr
    assert f"14 images listed in {target}" in result.stdout
    lines = target.read_text().split("\n")
    assert lines.pop() == ""
    assert [line.rpartition("/")[0] for line in lines] == ["sub/v_Jump_g1"] * 4 + ["v_Run_g1"] * 10
    assert lines[4:7] == [f"v_Run_g1/frame_{n}.png" for n in range(3)]
    assert all((tmp_path / "set" / line).is_file() for line in lines)


def test_the_data_section_of_a_configuration(class_folders: Path, tmp_path: Path):
    path = tmp_path / "train.yaml"
    path.write_text(f"data:\n  path: {class_folders}\n  num_frames: 4\nmodel:\n  depth: 2\n")
    result = check("--config", str(path), "frame_interval=6")
    assert result.returncode == 1
    assert "3 usable, 2 too short, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "`path` is not a folder: gone"),
        ((".", "frames=3"), "Unknown key 'frames'"),
        ((".", "num_frames=x"), "num_frames"),
        (("--config", "gone.yaml"), "is not a file: gone.yaml"),
        (("--config", "README.md"), "error:"),
        ((".", "--list", "a.txt"), "`--list` needs kind=frames, got videos"),
        ((".", "kind=frames", "--list", "gone/a.txt"), "in a folder that exists, got gone/a.txt"),
        ((".", "kind=frames", "--list", "."), "`--list` must be a file"),
        ((), "give either a folder or --config"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], message: str):
    result = check(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
