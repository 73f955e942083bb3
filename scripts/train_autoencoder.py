"""Train a KL autoencoder on the frames of videos: `train_autoencoder.py --config FILE [key=value]`.

Writes a folder in diffusers' layout, `<loop.output>/vae`; its scaling factor is measured on the
training videos.
"""

import dataclasses
import logging
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms import runtime, weights
from latte_ms.atomic import atomic_folder
from latte_ms.config import exit_on_error, parse
from latte_ms.data.datasets import VideoDataset, list_videos
from latte_ms.data.loader import Dataset, Loader, LoaderConfig
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.training import loop
from latte_ms.training.autoencoder import AutoencoderObjective
from latte_ms.training.autoencoder_recipe import AutoencoderTrainConfig
from latte_ms.training.batch import PixelBatch
from latte_ms.training.batches import autoencoder_batches
from latte_ms.training.checkpoint import ema_of
from latte_ms.training.optimizer_state import States
from latte_ms.training.run_folder import RunFolder
from latte_ms.training.step import TrainStep
from latte_ms.training.summary import summary, try_batch
from latte_ms.training.watch import DivergedError
from latte_ms.vae.autoencoder import AutoencoderKL, set_log_variance
from latte_ms.vae.codec import Codec

logger = logging.getLogger(__name__)

TERMS = ("loss", "reconstruction", "kl")


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(AutoencoderTrainConfig, arguments, __doc__, check)
    with exit_on_error(DivergedError):
        rank = runtime.setup(cfg.runtime)
        with RunFolder(cfg.loop, identity(cfg), rank) as folder:
            train(cfg, folder)


def identity(cfg: AutoencoderTrainConfig) -> dict[str, Any]:
    """The configuration that a resumed run must match."""
    return {"network": dataclasses.asdict(cfg.network)}


def check(cfg: AutoencoderTrainConfig) -> None:
    """What `--dry-run` does besides printing: all parts are built, and one batch has its loss.

    Raises ValueError, OSError or MissingExtraError as a run would.
    """
    list_videos(cfg.data)
    rank = runtime.setup(cfg.runtime)
    folder = RunFolder(cfg.loop, identity(cfg), rank)
    folder.check()
    loader, network = build_loader(cfg, rank), build_network(cfg)
    step = build_step(cfg, network, folder.rank)
    describe(cfg, network, step, folder, loader)
    with closing(build_batches(cfg, loader)(0)) as stream:
        try_batch(step.set_train(), TERMS, next(stream))


def train(cfg: AutoencoderTrainConfig, folder: RunFolder) -> None:
    """Run the updates that are left, in the entered `folder`, and export the autoencoder."""
    loader = build_loader(cfg, folder.rank)
    network = build_network(cfg)
    step = build_step(cfg, network, folder.rank)
    describe(cfg, network, step, folder, loader)
    batches = build_batches(cfg, loader)
    loop.train(network, step, TERMS, batches, cfg.optimizer, folder)
    states = step.gathered_states()
    if folder.rank.is_first:
        export(cfg, network, states, loader.dataset, folder.path / "vae")


def describe(
    cfg: AutoencoderTrainConfig,
    network: AutoencoderKL,
    step: TrainStep,
    folder: RunFolder,
    loader: Loader,
) -> None:
    """Log a summary of the run, on the first rank."""
    if folder.rank.is_first:
        num_videos, num_ranks = len(loader.dataset), folder.rank.count
        text = summary(network, step, cfg.loop, num_ranks, num_videos, folder.start)
        logger.info("A run in %s:\n%s", folder.path, text)


def build_batches(
    cfg: AutoencoderTrainConfig, loader: Loader
) -> Callable[[int], Generator[PixelBatch, None, None]]:
    """Frames of the loader's clips with their noise."""
    side = cfg.data.image_size // cfg.network.downsampling
    latent = (cfg.network.latent_channels, side, side)
    return autoencoder_batches(loader, latent, cfg.frames_per_video, cfg.loop.seed)


def build_loader(cfg: AutoencoderTrainConfig, rank: Rank) -> Loader:
    """Clips of pixels; raises ValueError if there are none."""
    settings = LoaderConfig(cfg.loop.batch_size, cfg.loop.seed, num_workers=cfg.loop.num_workers)
    return Loader(VideoDataset(cfg.data), settings, rank.index, rank.count)


def build_network(cfg: AutoencoderTrainConfig) -> AutoencoderKL:
    """The autoencoder with its initial weights."""
    network = AutoencoderKL(cfg.network, runtime.compute_dtype(cfg.runtime.precision))
    set_log_variance(network, cfg.initial_log_variance)
    return network


def build_step(cfg: AutoencoderTrainConfig, network: AutoencoderKL, rank: Rank) -> TrainStep:
    """Loss, gradients and update as one graph."""
    return TrainStep(
        AutoencoderObjective(network, cfg.kl_weight, cfg.reconstruction),
        cfg.optimizer,
        scale_loss=cfg.runtime.precision == "float16",
        distributed=cfg.runtime.distributed,
        shard_over=rank if cfg.optimizer.shard_states else None,
        accumulate=cfg.loop.accumulate,
    )


def export(
    cfg: AutoencoderTrainConfig,
    network: AutoencoderKL,
    states: States,
    dataset: Dataset,
    folder: Path,
) -> None:
    """Write the EMA, with the scaling factor that gives latents a standard deviation of 1.

    Changes `network`: its weights become the EMA, its configuration has scaling factor 1, and it is
    in evaluation mode.
    """
    network.set_train(False)
    average = ema_of(network, states)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(average[name].value())
    network.config = dataclasses.replace(cfg.network, scaling_factor=1.0)
    codec, rng = Codec(network, cfg.data.num_frames), np.random.default_rng(cfg.loop.seed)
    order = rng.permutation(len(dataset))[: cfg.scale_videos]
    latents = [codec.encode(dataset.item(int(i), rng)["video"][None]) for i in order]
    scale = 1.0 / float(np.concatenate(latents).std())
    with atomic_folder(folder) as partial:
        dataclasses.replace(cfg.network, scaling_factor=scale).to_json(partial / "config.json")
        weights.save(network, partial / "diffusion_pytorch_model.safetensors", dtype="float16")
    say(f"Autoencoder with scaling factor {scale:.4f}: {folder}")


if __name__ == "__main__":
    main()
