"""Text-to-video pipelines: the tiny one of the reference, and a tinier one for behaviour."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

FRAMES, SIDE, STEPS = 4, 16, 2  # of the tinier one: 4 frames of 2 x 2 latents


@pytest.fixture(scope="session")
def pipeline_folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's pipeline as diffusers saved it."""
    folder = tmp_path_factory.mktemp("pipelines") / "reference"
    shutil.copytree(reference / "t2v", folder, ignore=shutil.ignore_patterns("*.npz"))
    shutil.copytree(reference / "vae", folder / "vae", ignore=shutil.ignore_patterns("*.npz"))
    return folder


@pytest.fixture(scope="session")
def arrays(reference: Path) -> dict[str, np.ndarray]:
    """Recorded from diffusers: latents, latent_<scheduler>, some of the frames, embeddings."""
    with np.load(reference / "t2v" / "pipeline.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def small_config() -> LatteT2VConfig:
    return LatteT2VConfig(
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        cross_attention_dim=8,
        sample_size=2,
        caption_channels=32,
        video_length=FRAMES,
    )


@pytest.fixture(scope="session")
def shared(pipeline_folder: Path, small_config: LatteT2VConfig) -> LattePipeline:
    """Holds the networks and their graphs for all tests; use `small`."""
    transformer = LatteT2V(small_config, seed=3)
    pipeline = LattePipeline.from_pretrained(pipeline_folder, transformer=transformer)
    assert pipeline.codec.config.downsampling == 8
    return pipeline


@pytest.fixture
def small(shared: LattePipeline) -> LattePipeline:
    """A pipeline of the test's own over shared networks; no graph is compiled twice."""
    pipeline = LattePipeline(**shared.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def small_folder(shared: LattePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tinier pipeline on disk."""
    folder = tmp_path_factory.mktemp("pipelines") / "small"
    shared.save_pretrained(folder)
    return folder


@pytest.fixture
def options() -> dict[str, object]:
    """Arguments of a short call."""
    return {
        "prompt": "a cat wearing sunglasses",
        "negative_prompt": "low quality",
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "height": SIDE,
        "width": SIDE,
        "video_length": FRAMES,
        "generator": 0,
        "output_type": "latent",
        "clean_caption": False,
    }


@pytest.fixture(scope="session")
def error() -> Callable[[np.ndarray, np.ndarray], float]:
    """Largest error relative to the largest expected value; infinite for another shape."""

    def relative(result: np.ndarray, expected: np.ndarray) -> float:
        if result.shape != expected.shape or not np.isfinite(result).all():
            return float("inf")
        return float(np.abs(result - expected).max() / np.abs(expected).max())

    return relative
