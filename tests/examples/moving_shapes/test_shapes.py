"""The moving-shapes set: what it shows, how it is stored, the script that writes it."""

import csv
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from examples.moving_shapes import make_shapes as script
from examples.moving_shapes.shapes import (
    CLASS_NAMES,
    COLOURS,
    COMBINATION_NAMES,
    COMBINATIONS,
    MOTIONS,
    SHAPES,
    caption_of,
    held_out,
    seeded_clip,
    unseen_prompts,
    write_shapes,
)
from latte_ms.data.video_file import index_video, read_video
from tests.processes import run_here

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "moving_shapes" / "make_shapes.py"


def make_shapes(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(script.main, *arguments)


def test_a_clip_depends_on_its_own_seed_only():
    clip = seeded_clip(3, label=2, index=7)
    again = seeded_clip(3, label=2, index=7)
    assert np.array_equal(clip.frames, again.frames)
    assert clip.caption == again.caption
    for other in (seeded_clip(4, 2, 7), seeded_clip(3, 2, 8), seeded_clip(3, 1, 7)):
        assert not np.array_equal(clip.frames, other.frames)


@pytest.mark.parametrize("label", range(8))
def test_a_clip_moves_straight_in_the_direction_of_its_class(label: int):
    for index in range(10):
        clip = seeded_clip(0, label, index)
        assert clip.frames.shape == (16, 64, 64, 3)
        assert clip.frames.dtype == np.uint8
        steps = np.diff(clip.centres, axis=0)
        assert np.allclose(steps, steps[0])
        assert 1.5 <= np.hypot(*steps[0]) <= 2.5
        angle = np.degrees(np.arctan2(-steps[0, 1], steps[0, 0])) % 360
        assert abs((angle - 45 * label + 180) % 360 - 180) < 1e-6
        # Inside the image all the time: the outermost pixels show background only.
        border = np.concatenate(
            [clip.frames[:, [0, -1]].reshape(-1, 3), clip.frames[:, :, [0, -1]].reshape(-1, 3)]
        )
        assert (border == border[0]).all()


def test_spread_brings_paths_to_the_middle():
    for label in range(8):
        middles = [
            [seeded_clip(0, label, i, spread=spread).centres.mean(0) for i in range(20)]
            for spread in (0.0, 0.2, 1.0)
        ]
        centred, near, anywhere = (np.abs(np.array(m) - 32.0).max() for m in middles)
        assert centred < 1e-9
        assert 0 < near <= 0.2 * 23.0 < anywhere  # 23: half of 64 less the smallest margin
    with pytest.raises(ValueError, match=r"`spread` must be in \[0, 1\], got 1.5"):
        seeded_clip(0, 0, 0, spread=1.5)


def test_edges_are_soft_and_positions_finer_than_pixels():
    clip = seeded_clip(0, label=0, index=0)
    assert len(np.unique(clip.frames[0].reshape(-1, 3), axis=0)) > 4
    assert not np.array_equal(clip.centres, np.rint(clip.centres))


def test_captions_tell_colour_shape_and_motion():
    seen = set()
    for index in range(60):
        words = seeded_clip(0, index % 8, index).caption.split(" ", 4)
        article, colour, shape, moving, motion = words
        assert (article, moving) == ("an" if colour == "orange" else "a", "moving")
        assert motion == MOTIONS[index % 8]
        seen |= {colour, shape}
    assert seen == set(COLOURS) | set(SHAPES)


def test_size_and_length_can_be_chosen():
    small, large = seeded_clip(0, 3, 1, size=32, num_frames=8), seeded_clip(0, 3, 1)
    assert small.frames.shape == (8, 32, 32, 3)
    whole = large.centres[-1] - large.centres[0]
    assert np.allclose(small.centres[-1] - small.centres[0], whole / 2)


@pytest.mark.parametrize(
    ("label", "size", "num_frames", "message"),
    [
        (8, 64, 16, "`label` must be in 0..7, got 8"),
        (0, 8, 16, r"`size` \(=8\)"),
        (0, 64, 1, r"`num_frames` \(=1\)"),
    ],
)
def test_wrong_arguments_are_named(label: int, size: int, num_frames: int, message: str):
    with pytest.raises(ValueError, match=message):
        seeded_clip(0, label, 0, size, num_frames)


def test_a_third_of_the_combinations_is_held_out_and_nothing_else_is():
    prompts = unseen_prompts()
    assert len(set(prompts)) == len(prompts) == 64
    seen = {c for c in product(COLOURS, SHAPES, range(8)) if not held_out(*c)}
    assert len(seen) == 128
    assert {(colour, shape) for colour, shape, _ in seen} == set(product(COLOURS, SHAPES))
    assert {(colour, label) for colour, _, label in seen} == set(product(COLOURS, range(8)))
    assert {(shape, label) for _, shape, label in seen} == set(product(SHAPES, range(8)))
    drawn = {
        seeded_clip(0, label, i, 64, 2, hold_out=True).caption
        for label in range(8)
        for i in range(150)
    }
    assert drawn == {caption_of(colour, shape, MOTIONS[label]) for colour, shape, label in seen}


def test_a_clip_that_is_not_held_out_is_the_same_with_and_without():
    for label, index in product(range(8), range(3)):
        clip, other = (seeded_clip(4, label, index, hold_out=value) for value in (False, True))
        same = np.array_equal(clip.frames, other.frames)
        assert same == (clip.caption not in unseen_prompts())


def test_a_class_may_be_a_combination_of_direction_colour_and_shape():
    """192 classes; what a class leaves open still comes from the seed."""
    shown = []
    for label, (direction, colour, shape) in enumerate(COMBINATIONS):
        clip = seeded_clip(0, label, 0, 64, 2, combinations=True)
        assert clip.label == label
        assert clip.caption == caption_of(colour, shape, MOTIONS[direction])
        shown.append(clip.caption)
        step = (clip.centres[1] - clip.centres[0]) * (1, -1)  # y up
        angle = np.degrees(np.arctan2(step[1], step[0])) % 360
        assert angle == pytest.approx(45.0 * direction, abs=1e-6) or angle == pytest.approx(360.0)
    assert len(set(shown)) == 192
    assert COMBINATION_NAMES[77] == "077_green_square_north_west"
    first, second = (seeded_clip(0, 77, index, combinations=True) for index in (0, 1))
    assert not np.array_equal(first.frames, second.frames)
    with pytest.raises(ValueError, match=r"`label` must be in 0..191, got 192"):
        seeded_clip(0, 192, 0, combinations=True)
    with pytest.raises(ValueError, match="`hold_out` leaves out"):
        seeded_clip(0, 0, 0, hold_out=True, combinations=True)


def test_the_set_on_disk_is_what_was_drawn(tmp_path: Path):
    shapes = tmp_path / "set"
    assert len(list(write_shapes(shapes, videos_per_class=6, seed=5))) == 48
    assert sorted(path.name for path in shapes.iterdir() if path.is_dir()) == list(CLASS_NAMES)
    with (shapes / "captions.csv").open(encoding="utf-8") as file:
        captions = {row["path"]: row["caption"] for row in csv.DictReader(file)}
    assert len(captions) == 48
    for label in (1, 6):
        path = f"{CLASS_NAMES[label]}/00003.mp4"
        clip = seeded_clip(5, label, 3)
        assert captions[path] == clip.caption
        stored = read_video(shapes / path)
        assert index_video(shapes / path).fps == 8.0
        assert stored.shape == clip.frames.shape
        # Even lossless H.264 rounds colours by a few levels, because it stores 8-bit YUV.
        assert np.abs(stored.astype(int) - clip.frames).mean() < 4.0


def test_the_script_writes_refuses_and_replaces(tmp_path: Path):
    target = tmp_path / "set"
    command = [sys.executable, str(SCRIPT), "--target", str(target), "--videos-per-class", "2"]
    first = subprocess.run([*command, "--seed", "1"], cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "16 videos in 8 classes" in first.stdout
    assert not first.stderr, "the progress bar is for a terminal"

    again = make_shapes("--target", str(target), "--videos-per-class", "1")
    assert again.returncode == 2
    assert "not empty" in again.stderr
    assert "--force" in again.stderr

    mine = [
        target / "mine.txt",
        target / CLASS_NAMES[0] / "mine.txt",
        target / "mine" / "00000.mp4",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept")
    forced = make_shapes("--target", str(target), "--videos-per-class", "1", "--force")
    assert forced.returncode == 0
    assert len(list(target.rglob("*.mp4"))) == 8 + 1
    assert {path.read_text() for path in mine} == {"kept"}


def test_a_set_that_holds_out_combinations_says_which(tmp_path: Path):
    target = tmp_path / "set"
    result = make_shapes("--target", str(target), "--videos-per-class", "2", "--hold-out")
    assert result.returncode == 0, result.stderr
    prompts = (target / "unseen_prompts.txt").read_text(encoding="utf-8").splitlines()
    assert prompts == unseen_prompts()
    with (target / "captions.csv").open(encoding="utf-8") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    assert len(captions) == 16
    assert not set(captions) & set(prompts)
    make_shapes("--target", str(target), "--videos-per-class", "1", "--force")
    assert not (target / "unseen_prompts.txt").exists()


def test_a_set_with_a_folder_per_combination(tmp_path: Path):
    target = tmp_path / "set"
    small = (
        "--target",
        str(target),
        "--videos-per-class",
        "1",
        "--size",
        "16",
        "--num-frames",
        "2",
    )
    result = make_shapes(*small, "--combinations")
    assert result.returncode == 0, result.stderr
    assert "192 videos in 192 classes" in result.stdout
    assert sorted(path.name for path in target.iterdir() if path.is_dir()) == [*COMBINATION_NAMES]
    with (target / "captions.csv").open(encoding="utf-8") as file:
        captions = {row["path"]: row["caption"] for row in csv.DictReader(file)}
    assert captions["077_green_square_north_west/00000.mp4"] == (
        "a green square moving to the upper left"
    )
    assert make_shapes(*small, "--combinations", "--hold-out").returncode == 2
    assert make_shapes(*small, "--force").returncode == 0  # back to directions
    assert len(list(target.rglob("*.mp4"))) == 8


def test_force_completes_a_set_that_was_cut_short(tmp_path: Path):
    target = tmp_path / "set"
    (target / CLASS_NAMES[0]).mkdir(parents=True)
    for name in ("00000.mp4", "00007.mp4", ".00008.mp4.71.partial"):
        (target / CLASS_NAMES[0] / name).write_text("half")
    result = make_shapes("--target", str(target), "--videos-per-class", "1", "--force")
    assert result.returncode == 0, result.stderr
    assert len([path for path in target.rglob("*") if ".mp4" in path.name]) == 8
    assert index_video(target / CLASS_NAMES[0] / "00000.mp4").num_frames == 16
    assert (target / "captions.csv").is_file()


@pytest.mark.parametrize("option", ["--videos-per-class=0", "--size=63", "--seed=-1"])
def test_the_script_rejects_bad_numbers(tmp_path: Path, option: str):
    result = make_shapes("--target", str(tmp_path / "set"), option)
    assert result.returncode == 2
    assert option.split("=")[0] in result.stderr
    assert not (tmp_path / "set").exists()


def test_the_quickstart_replaces_a_set_that_was_cut_short_and_keeps_a_whole_one(tmp_path: Path):
    """The script itself, but it installs nothing and of its steps only the first is carried out."""
    root = tmp_path / "root"
    (root / "scripts").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "examples").symlink_to(ROOT / "examples")
    shutil.copy(ROOT / "scripts" / "quickstart.sh", root / "scripts")
    step = f'case $1 in examples/*) exec "{sys.executable}" "$@" --videos-per-class 1 ;; esac'
    for path, body in (("scripts/setup.sh", "exit 0"), ("bin/python", step)):
        (root / path).write_text(f"#!/bin/sh\n{body}\n")
        (root / path).chmod(0o755)
    east = tmp_path / "out" / "videos" / CLASS_NAMES[0]
    east.mkdir(parents=True)
    (east / "00000.mp4").write_text("half")
    command = ["bash", str(root / "scripts" / "quickstart.sh"), str(tmp_path / "out")]
    environment = {**os.environ, "VENV": str(root)}
    written = []
    for _ in range(2):
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "4/4" in result.stdout
        assert index_video(east / "00000.mp4").num_frames == 16
        written.append((east / "00000.mp4").stat().st_mtime_ns)
    assert written[0] == written[1]
