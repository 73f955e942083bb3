"""The scripts as a user runs them, on a few tiny videos: data, autoencoder, Latte, samples."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.moving_shapes import make_shapes
from latte_ms.runtime import RuntimeConfig, setup
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.configuration import AutoencoderConfig
from latte_ms.weights.pretrained import save_pretrained

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs" / "shapes"


def recipe(name: str, **values: object) -> list[str]:
    """Arguments of a script: a recipe of the repository, and overrides with `__` for dots."""
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    return ["--config", str(RECIPES / name), *overrides]


@pytest.fixture(scope="module", autouse=True)
def other_tests_keep_their_runtime() -> Iterator[None]:
    """The recipes set their own optimisation level for the whole process."""
    yield
    setup(RuntimeConfig())


@pytest.fixture(scope="session")
def arguments() -> object:
    return recipe


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen videos of 4 frames of 32 x 32 pixels, made by the example."""
    folder = tmp_path_factory.mktemp("end_to_end") / "shapes"
    options = {"--videos-per-class": 2, "--size": 32, "--num-frames": 4, "--target": folder}
    with pytest.MonkeyPatch.context() as patch:
        arguments = [str(part) for pair in options.items() for part in pair]
        patch.setattr(sys, "argv", ["make_shapes.py", *arguments])
        assert make_shapes.main() == 0
    return folder


@pytest.fixture(scope="session")
def autoencoder_arguments(videos: Path) -> list[str]:
    return recipe(
        "autoencoder.yaml",
        data__path=videos,
        data__image_size=32,
        data__num_frames=4,
        network__block_out_channels="[4,8,8]",
        network__norm_num_groups=2,
        network__sample_size=32,
        optimizer__warmup_steps=1,
        loop__max_steps=3,
        loop__batch_size=2,
        loop__log_every=1,
        loop__output=videos.parent / "autoencoder",
    )


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an autoencoder of random weights; a latent is 4 x 4 pixels."""
    fields = AutoencoderConfig(
        block_out_channels=(4, 8, 8), norm_num_groups=2, sample_size=32, scaling_factor=5.0
    )
    folder = tmp_path_factory.mktemp("autoencoder") / "vae"
    save_pretrained(AutoencoderKL(fields, seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def sizes() -> dict[str, object]:
    """Overrides that make the recipe's network tiny."""
    small = {"input_size": 8, "patch_size": 2, "num_frames": 4}
    return {**small, "hidden_size": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="session")
def train_arguments(videos: Path, vae: Path, sizes: dict[str, object]) -> list[str]:
    """Three updates; add overrides to change them."""
    return recipe(
        "train.yaml",
        data__path=videos,
        data__image_size=32,
        data__num_frames=4,
        vae=vae,
        optimizer__warmup_steps=1,
        loop__max_steps=3,
        loop__batch_size=2,
        loop__log_every=1,
        loop__output=videos.parent / "latte",
        **{f"network__{name}": value for name, value in sizes.items()},
    )


@pytest.fixture
def free_port() -> int:
    """For msrun; tests of two files may run at the same time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
