"""Batches of a training step, with everything it draws at random already in them.

A batch is (latents, noise, t, *conditions) in numpy, ready for `TrainStep`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from latte_ms.data.loader import Loader
from latte_ms.training.randomness import Draws, draw, generator
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.vae.codec import Codec

Batch = tuple[Any, ...]


class LatentBatches:
    """Encodes the loader's pixels batch by batch; the autoencoder's sample is drawn anew each time.

    Args:
        seed: of timesteps, noise, label dropout and the autoencoder's sample.
    """

    def __init__(
        self, loader: Loader, codec: Codec, network: LatteConfig, num_timesteps: int, seed: int
    ) -> None:
        self.loader, self.codec, self.network = loader, codec, network
        self.num_timesteps, self.seed = num_timesteps, seed
        frames = network.num_frames + network.num_joint_images
        side = network.input_size
        self.shape = (loader.config.batch_size, frames, network.in_channels, side, side)
        _check_size(loader, codec, network)

    def __call__(self, start_step: int) -> Iterator[Batch]:
        """Batches from number `start_step` on, without end."""
        for step, item in enumerate(self.loader.endless(start_step), start_step):
            draws = self.draws(step)
            latents = self.codec.encode(item["video"], draws.posterior)
            yield self.batch(latents, draws, item.get("label"), item.get("image_labels"))

    def draws(self, step: int) -> Draws:
        """The random numbers of this rank's batch number `step`."""
        first = _first_sample(self.loader, step)
        dropout = self.network.class_dropout_prob
        return draw(self.seed, first, self.shape, self.num_timesteps, dropout)

    def batch(
        self,
        latents: np.ndarray,
        draws: Draws,
        labels: np.ndarray | None,
        image_labels: np.ndarray | None,
    ) -> Batch:
        """Latents with noise, timesteps and, for class conditioning, labels after dropout."""
        if self.network.conditioning != "class":
            return latents, draws.noise, draws.t
        assert labels is not None
        network = self.network
        y = np.where(draws.dropped, network.null_label, labels).astype(np.int32)
        network.check_labels(y, "labels")
        if image_labels is None:
            return latents, draws.noise, draws.t, y
        y_image = np.where(draws.dropped[:, None], network.null_label, image_labels)
        network.check_labels(y_image, "image_labels")
        return latents, draws.noise, draws.t, y, None, y_image.astype(np.int32)


class CachedLatentBatches(LatentBatches):
    """Encodes each video once, before the first batch, and draws from the distributions kept."""

    def __init__(
        self, loader: Loader, codec: Codec, network: LatteConfig, num_timesteps: int, seed: int
    ) -> None:
        super().__init__(loader, codec, network, num_timesteps, seed)
        means, deviations, self.labels = [], [], []
        for index in tqdm(range(len(loader.dataset)), "encoding videos", unit="video"):
            item = loader.dataset.item(index, np.random.default_rng(index))
            mean = codec.encode(item["video"][None])[0]
            # The latent is linear in the noise: one of ones is mean plus standard deviation.
            ones = np.ones((1, *mean.shape), np.float32)
            deviations.append(codec.encode(item["video"][None], ones)[0] - mean)
            means.append(mean)
            self.labels.append(item.get("label", np.int32(0)))
        self.means, self.deviations = np.stack(means), np.stack(deviations)

    def __call__(self, start_step: int) -> Iterator[Batch]:
        step = start_step
        while True:
            draws = self.draws(step)
            _, chosen = self.loader.indices(step)
            latents = self.means[chosen] + self.deviations[chosen] * draws.posterior
            yield self.batch(latents, draws, np.array(self.labels)[chosen], None)
            step += 1


def autoencoder_batches(
    loader: Loader, latent_shape: tuple[int, int, int], frames_per_video: int, seed: int
) -> Callable[[int], Iterator[Batch]]:
    """Batches (pixels (N, 3, S, S), noise (N, *latent_shape)) of random frames of each clip."""

    def batches(start_step: int) -> Iterator[Batch]:
        for step, item in enumerate(loader.endless(start_step), start_step):
            pixels, noise = [], []
            for sample, video in enumerate(item["video"], _first_sample(loader, step)):
                rng = generator(seed, sample)
                picked = rng.permutation(len(video))[:frames_per_video]
                pixels.append(video[picked])
                noise.append(rng.standard_normal((len(picked), *latent_shape), np.float32))
            yield np.concatenate(pixels), np.concatenate(noise)

    return batches


def _first_sample(loader: Loader, step: int) -> int:
    """The number, in the whole run, of the first sample of this rank's batch number `step`."""
    return step * loader.global_batch_size + loader.rank * loader.config.batch_size


def _check_size(loader: Loader, codec: Codec, network: LatteConfig) -> None:
    side, pixels = network.input_size, loader.dataset.config.image_size
    if side * codec.config.downsampling != pixels:
        raise ValueError(
            f"`network.input_size` (={side}) must be `data.image_size` (={pixels}) over the "
            f"autoencoder's downsampling (={codec.config.downsampling})."
        )
    if network.in_channels != codec.config.latent_channels:
        raise ValueError(
            f"`network.in_channels` (={network.in_channels}) must equal the autoencoder's "
            f"`latent_channels` (={codec.config.latent_channels})."
        )
    classes = loader.dataset.num_classes
    if network.conditioning == "class" and classes > network.num_classes:
        raise ValueError(
            f"`network.num_classes` (={network.num_classes}) must be at least the number of class "
            f"folders (={classes})."
        )
