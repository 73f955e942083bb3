"""FVD of two folders of videos by `scripts/calc_metrics.py`: by one process, by two, and killed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from examples.moving_shapes.shapes import draw_clip
from latte_ms import weights
from latte_ms.media import save_video
from latte_ms.metrics.features import PART
from latte_ms.metrics.i3d import I3D, MIN_FRAMES
from tests.end_to_end.test_distributed import environment, logs_of, start

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
CLIPS = PART + 3  # of each set: two parts
BOUND = 1e-9  # relative


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets of videos and a network with random weights."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("real", "generated")):
        (folder / name).mkdir()
        for index in range(CLIPS):
            clip = draw_clip(index % 8, np.random.default_rng([seed, index]), spread=1.0 - seed)
            save_video(folder / name / f"{index:04d}", clip.frames, ["mp4"], 8.0)
    rng, network = np.random.default_rng(0), I3D()
    for parameter in network.get_parameters():
        scale = np.sqrt(2.0 / np.prod(parameter.shape[1:])) if parameter.ndim > 1 else 0.1
        values = scale * rng.standard_normal(parameter.shape)
        parameter.set_data(Tensor(values.astype(np.float32)))
    weights.save(network, folder / "i3d.safetensors")
    return [
        f"real={folder / 'real'}",
        f"generated={folder / 'generated'}",
        f"detector={folder / 'i3d.safetensors'}",
        f"num_frames={MIN_FRAMES}",
        "frame_interval=1",
        "num_clips=0",
        "image_size=64",
    ]


def command(arguments: list[str], folder: Path) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "calc_metrics.py"), *kept(arguments, folder)]


def kept(arguments: list[str], folder: Path) -> list[str]:
    return [*arguments, f"cache={folder / 'cache'}", f"output={folder / 'fvd.json'}"]


def run_alone(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        command(arguments, folder), env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def value(folder: Path) -> float:
    return float(json.loads((folder / "fvd.json").read_text())["fvd"]["distance"]["value"])


@pytest.fixture(scope="module")
def unbroken(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> float:
    folder = tmp_path_factory.mktemp("unbroken")
    run_alone(arguments, folder)
    assert value(folder) > 0.0
    return value(folder)


def test_two_workers_find_the_same(arguments: list[str], unbroken: float, tmp_path: Path) -> None:
    process = start("calc_metrics.py", kept(arguments, tmp_path), tmp_path / "logs")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said + logs_of(tmp_path / "logs")
    assert value(tmp_path) == pytest.approx(unbroken, rel=BOUND)


def test_a_killed_run_goes_on(arguments: list[str], unbroken: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(arguments, tmp_path),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 900
    while not list(tmp_path.glob("cache/*_parts/*.npy")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert "1 of 2 parts are there already" in run_alone(arguments, tmp_path)
    assert value(tmp_path) == pytest.approx(unbroken, rel=BOUND)
