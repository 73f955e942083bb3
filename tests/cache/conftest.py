"""A few tiny videos in two classes, a small autoencoder, and a cache of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latte_ms import config
from latte_ms.media import write_mp4
from latte_ms.runtime import Rank
from latte_ms.training.recipe import TrainConfig
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig
from latte_ms.weights.pretrained import save_pretrained
from scripts import encode

FRAMES = 3
Recipe = Callable[..., TrainConfig]


def write_videos(folder: Path) -> None:
    """Six videos of 7 frames, of noise that changes slowly, in the classes `a` and `b`."""
    rng = np.random.default_rng(0)
    for number in range(6):
        frames = rng.integers(0, 256, (7, 6, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
        path = folder / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, frames)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder of random weights; a latent is 2 x 2 pixels."""
    fields = AutoencoderConfig(block_out_channels=(4, 8), norm_num_groups=2, sample_size=16)
    folder = tmp_path_factory.mktemp("weights") / "vae"
    save_pretrained(AutoencoderKL(fields, seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def recipe(videos: Path, vae: Path) -> Recipe:
    """A function of overrides, with `__` for dots, to a training recipe on the videos."""

    def made(**changes: object) -> TrainConfig:
        values = {
            "data__path": videos,
            "data__classes": "true",
            "data__image_size": 16,
            "data__num_frames": FRAMES,
            "data__frame_interval": 1,
            "vae": vae,
            "vae_chunk_frames": FRAMES,
            "latent_cache__dtype": "float32",
            "latent_cache__videos_per_file": 4,
            "network__input_size": 8,
            "network__hidden_size": 16,
            "network__num_heads": 2,
            "network__depth": 2,
            "network__conditioning": "class",
            "network__num_classes": 2,
            "loop__output": "unused",
            "loop__batch_size": 2,
            "loop__seed": 3,
            **changes,
        }
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
        return config.load(TrainConfig, None, overrides)

    return made


@pytest.fixture(scope="session")
def codec(recipe: Recipe) -> Codec:
    """The autoencoder of all caches: its graphs are compiled once."""
    return encode.build_codec(recipe(latent_cache__dtype="float16", latent_cache__path="unused"))


@pytest.fixture(scope="session")
def fill(recipe: Recipe, codec: Codec) -> Callable[..., TrainConfig]:
    """A function that fills the cache in a folder as the script does; returns the recipe."""

    def filled(folder: Path, **changes: object) -> TrainConfig:
        cfg = recipe(latent_cache__path=folder, **changes)
        encode.encode(cfg, codec, folder, Rank(), None)
        return cfg

    return filled


@pytest.fixture(scope="session")
def plain(fill: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the middle windows."""
    folder = tmp_path_factory.mktemp("plain")
    fill(folder)
    return folder


@pytest.fixture(scope="session")
def several(
    fill: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """The recipe of a cache of two windows of each video, and their mirrored copies."""
    folder = tmp_path_factory.mktemp("several")
    return fill(folder, data__flip="true", latent_cache__clips_per_video=2)
