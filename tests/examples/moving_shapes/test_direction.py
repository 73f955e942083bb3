"""The judge of the moving-shapes videos: right on real clips, robust, and not easily fooled."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.moving_shapes import evaluate_shapes
from examples.moving_shapes.direction import UNDECIDED, fit_line, judge_motion, nearest_direction
from examples.moving_shapes.shapes import CLASS_NAMES, draw_clip, seeded_clip, write_shapes
from latte_ms.media import write_mp4
from tests.processes import run_here

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "moving_shapes" / "evaluate_shapes.py"


def accuracy(spoil, count: int = 9) -> float:
    """Share of right verdicts over `count` clips per direction after `spoil(frames, rng)`."""
    right = 0
    for label in range(8):
        for index in range(count):
            rng = np.random.default_rng([9, label, index])
            frames = spoil(draw_clip(label, rng).frames.astype(np.float64), rng)
            frames = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
            right += judge_motion(frames).direction == label
    return right / (8 * count)


def blur(frames: np.ndarray, passes: int = 3) -> np.ndarray:
    for _ in range(passes):
        for axis in (1, 2):
            frames = (np.roll(frames, 1, axis) + 2 * frames + np.roll(frames, -1, axis)) / 4
    return frames


def test_160_real_clips_are_all_right():
    assert accuracy(lambda frames, rng: frames, count=20) == 1.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frames, rng: blur(frames),
        lambda frames, rng: frames + rng.normal(0, 15, frames.shape),
        lambda frames, rng: frames + rng.normal(0, 12, (len(frames), 1, 1, 3)),  # colours wobble
        lambda frames, rng: blur(frames) * 0.7 + 40 + rng.normal(0, 8, frames.shape),
        lambda frames, rng: np.stack(  # each frame shifted by a pixel or so
            [np.roll(f, rng.integers(-1, 2, 2), (0, 1)) for f in frames]
        ),
    ],
    ids=["blur", "noise", "wobble", "pale", "jitter"],
)
def test_what_generated_videos_suffer_from_does_not_matter(spoil):
    assert accuracy(spoil) >= 0.97


def test_speed_and_angle_are_measured():
    clip = seeded_clip(0, 1, 0)
    motion = judge_motion(clip.frames)
    step = np.hypot(*(clip.centres[1] - clip.centres[0]))
    assert motion.speed == pytest.approx(step, rel=0.02)
    assert motion.angle == pytest.approx(45, abs=1)
    assert motion.residual < 0.2
    assert motion.visible == 1.0


def test_backwards_is_the_opposite_direction():
    for label in range(8):
        frames = seeded_clip(0, label, 0).frames
        assert judge_motion(frames[::-1]).direction == (label + 4) % 8


def test_no_motion_no_shape_and_noise_are_undecided():
    frames = seeded_clip(0, 0, 0).frames
    still = np.repeat(frames[:1], 16, axis=0)
    plain = np.full_like(frames, 120)
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    for video in (still, plain, noise):
        assert judge_motion(video).direction == UNDECIDED
    vanishing = frames.copy()
    vanishing[6:] = vanishing[0, 0, 0]
    assert judge_motion(vanishing).direction == UNDECIDED


def test_a_few_lost_frames_do_not_turn_the_line():
    times = np.arange(16.0)
    centres = np.stack([10 + 2 * times, 30 - times], axis=1)
    centres[[3, 9, 12]] += 25
    velocity, residual = fit_line(times, centres)
    assert np.allclose(velocity, [2, -1], atol=0.1)
    assert residual < 1.0


@pytest.mark.parametrize(
    ("angle", "direction"), [(0, 0), (22, 0), (23, 1), (338, 0), (337, 7), (180, 4)]
)
def test_the_nearest_of_eight(angle: float, direction: int):
    assert nearest_direction(angle) == direction


@pytest.mark.parametrize("shape", [(16, 64, 64), (1, 64, 64, 3), (4, 64, 64, 4)])
def test_wrong_arrays_are_named(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="`frames` must be"):
        judge_motion(np.zeros(shape, np.uint8))


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(evaluate_shapes.main, *arguments)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("judged")
    assert len(list(write_shapes(target, videos_per_class=17, seed=11))) == 136
    return target


class TestScript:
    @pytest.mark.slow
    def test_136_real_videos(self, shapes: Path, tmp_path: Path):
        """As a user runs it."""
        command = [sys.executable, str(SCRIPT), str(shapes), "--minimum", "0.99", "--json"]
        command.append(str(tmp_path / "r.json"))
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["count"] == 136
        assert report["accuracy"] >= 0.99
        assert len(report["accuracy_per_class"]) == 8
        assert np.sum(report["confusion"]) == 136
        assert {"path", "label", "direction", "angle"} <= set(report["videos"][0])

    @pytest.mark.slow
    def test_wrong_directions_fail_the_minimum(self, shapes: Path, tmp_path: Path):
        for label in range(8):
            shutil.copytree(shapes / CLASS_NAMES[label], tmp_path / str((label + 1) % 8))
        result = evaluate(str(tmp_path), "--minimum", "0.01")
        assert result.returncode == 1
        assert "direction accuracy: 0.00% of 136" in result.stdout

    def test_files_named_by_class_gif_twins_and_unreadable_ones(self, shapes: Path, tmp_path: Path):
        for label in (2, 5):
            shutil.copy(shapes / CLASS_NAMES[label] / "00000.mp4", tmp_path / f"{label}_0.mp4")
            images = [Image.fromarray(f) for f in seeded_clip(11, label, 1).frames]
            images[0].save(tmp_path / f"{label}_1.gif", save_all=True, append_images=images[1:])
            shutil.copy(tmp_path / f"{label}_1.gif", tmp_path / f"{label}_0.gif")
        (tmp_path / "7_0.mp4").write_bytes(b"no video")
        result = evaluate(str(tmp_path), "--minimum", "0.8")
        assert result.returncode == 0, result.stdout
        assert "direction accuracy: 80.00% of 5 videos" in result.stdout
        assert "unreadable: " in result.stdout

    def test_distances_that_cannot_be_measured_are_null(self, tmp_path: Path):
        """Hardly a video shows a shape: JSON has no NaN."""
        for number in range(2):
            write_mp4(tmp_path / f"3_{number}.mp4", np.full((16, 64, 64, 3), 120, np.uint8))
        target = tmp_path / "r.json"
        result = evaluate(str(tmp_path), "--real", str(tmp_path), "--json", str(target))
        assert result.returncode == 0, result.stderr
        assert "distance of motion to real videos: not measured" in result.stdout
        report = json.loads(target.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert report["distances"] == {"motion": None, "appearance": None}

    def test_nothing_to_judge(self, tmp_path: Path):
        assert "no such folder" in evaluate(str(tmp_path / "gone")).stderr
        assert "no videos under" in evaluate(str(tmp_path)).stderr
        (tmp_path / "0001.mp4").write_bytes(b"")
        result = evaluate(str(tmp_path))
        assert result.returncode == 2
        assert "'0001.mp4' must begin with a class index in 0..7" in result.stderr
        assert evaluate(str(tmp_path), "--minimum", "90").returncode == 2

    def test_a_report_that_cannot_be_written_is_refused_before_the_work(self, tmp_path: Path):
        (tmp_path / "0_0.mp4").write_bytes(b"never read")
        for path in (tmp_path / "gone" / "r.json", tmp_path, tmp_path / "0_0.mp4" / "r.json"):
            result = evaluate(str(tmp_path), "--json", str(path))
            assert result.returncode == 2
            assert f"--json must be a file in a folder that can be written to, got {path}" in (
                result.stderr
            )
            assert "judging" not in result.stderr
