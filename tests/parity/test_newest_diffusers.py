"""Pipelines on disk, from here to the newest diffusers and back.

diffusers 0.35.2 writes the pipeline that this begins with. The newest diffusers has an environment
of its own, `.venv-diffusers`; if it cannot be created, the test fails with what pip says.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.generation.pipelines.latte import LattePipeline
from tests.parity.live_pipeline import FRAMES, noise, save_live_pipeline
from tests.processes import python_of

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
REQUIREMENTS = "requirements-diffusers.txt"
BOUND = 1e-4  # fixed before looking; frames are in [0, 1]
PROMPT = "a very long prompt about two dogs on a beach at night"
OPTIONS: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": "low quality",
    "num_inference_steps": 3,
    "guidance_scale": 5.0,
    "video_length": FRAMES,
    "height": 32,
    "width": 32,
    "clean_caption": False,
}


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the newest diffusers' environment."""
    return python_of(".venv-diffusers", REQUIREMENTS)


def frames_here(folder: Path) -> np.ndarray:
    pipeline = LattePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(pipeline(**OPTIONS, latents=noise(1), output_type="np").frames)


def test_there_and_back(python: Path, reference: Path, tmp_path: Path) -> None:
    older, ours, theirs = (tmp_path / name for name in ("older", "ours", "theirs"))
    save_live_pipeline(older, reference)
    LattePipeline.from_pretrained(older).save_pretrained(ours)
    expected = frames_here(older)
    inputs, outputs = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    np.savez(inputs, latents=noise(1), options=json.dumps(OPTIONS))
    script = Path(__file__).with_name("newest_diffusers.py")
    command = [str(part) for part in (python, script, ours, theirs, inputs, outputs)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(outputs) as file:
        assert f"\ndiffusers=={file['version']}\n" in (ROOT / REQUIREMENTS).read_text()
        assert file["frames"].shape == expected.shape == (1, FRAMES, 32, 32, 3)
        np.testing.assert_allclose(file["frames"], expected, rtol=0, atol=BOUND)
    np.testing.assert_allclose(frames_here(theirs), expected, rtol=0, atol=BOUND)
