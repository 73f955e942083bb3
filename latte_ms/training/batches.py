"""Training batches, which include all their random numbers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from latte_ms.data.datasets import Item, VideoDataset
from latte_ms.data.loader import Loader, collate
from latte_ms.data.text_embeddings import TextEmbeddings
from latte_ms.progress import progress
from latte_ms.training.batch import LatentBatch, PixelBatch
from latte_ms.training.randomness import Draws, draw, generator
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.vae.codec import Codec


class LatentBatches:
    """Encodes the loader's pixels batch by batch.

    The latents are resampled from the posterior each time.

    Args:
        seed: of timesteps, noise, dropout of conditions and the samples of the posterior.
        text_embeddings: those of all videos, for `network.conditioning` text.
    Raises:
        ValueError: data, autoencoder, network and embeddings do not fit each other.
    """

    def __init__(
        self,
        loader: Loader,
        codec: Codec,
        network: LatteConfig,
        num_timesteps: int,
        seed: int,
        text_embeddings: TextEmbeddings | None = None,
    ) -> None:
        self.loader, self.codec, self.network = loader, codec, network
        self.num_timesteps, self.seed = num_timesteps, seed
        frames = network.num_frames + network.num_joint_images
        side = network.input_size
        self.shape = (loader.config.batch_size, frames, network.in_channels, side, side)
        self.text_embeddings, self.names = text_embeddings, loader.dataset.names
        _check_size(loader, codec, network)
        _check_text_embeddings(network, text_embeddings, self.names)

    def prepare(self) -> None:
        """Work before the first batch; there is none here."""

    def __call__(self, start_batch: int) -> Iterator[LatentBatch]:
        """An endless iterator over the batches from number `start_batch` on."""
        for batch_number, item in enumerate(self.loader.endless(start_batch), start_batch):
            draws = self.draws(batch_number)
            yield self.batch(self.codec.encode(item["video"], draws.posterior_noise), draws, item)

    def draws(self, batch_number: int) -> Draws:
        """The random numbers of this rank's batch of that number."""
        first = _first_sample(self.loader, batch_number)
        dropout = self.network.class_dropout_prob
        return draw(self.seed, first, self.shape, self.num_timesteps, dropout)

    def batch(self, latents: np.ndarray, draws: Draws, item: Item) -> LatentBatch:
        """The batch with `latents`, which were encoded from the videos of `item`."""
        conditions: dict[str, np.ndarray] = {}
        if self.network.conditioning == "class":
            conditions = self._labels(draws, item)
        elif self.network.conditioning == "text":
            conditions = {"text_embedding": self._text_embedding(draws, item["index"])}
        return LatentBatch(latents, draws.noise, draws.t, conditions)

    def _labels(self, draws: Draws, item: Item) -> dict[str, np.ndarray]:
        """Labels y (B,) of the videos and y_image (B, n) of the joint images, if any."""
        null = self.network.null_label
        labels = {"y": np.where(draws.dropped, null, item["label"]).astype(np.int32)}
        if "image_labels" in item:
            images = np.where(draws.dropped[:, None], null, item["image_labels"])
            labels["y_image"] = images.astype(np.int32)
        for name, values in labels.items():
            self.network.check_labels(values, name)
        return labels

    def _text_embedding(self, draws: Draws, indices: np.ndarray) -> np.ndarray:
        """(B, text_tokens, text_width) float32; no caption is dropped without `unconditional`."""
        embeddings = self.text_embeddings
        assert embeddings is not None
        null = embeddings.unconditional
        return np.stack(
            [
                null if dropped and null is not None else embeddings[self.names[index]]
                for index, dropped in zip(indices, draws.dropped, strict=True)
            ]
        )


@dataclass(frozen=True)
class EncodedVideos:
    """The normal distribution of the latents of each of N videos, and the labels of the videos."""

    means: np.ndarray  # (N, F, C, h, w) float32
    stds: np.ndarray  # (N, F, C, h, w) float32
    items: Item  # the other arrays of the items, stacked, each (N,)


def encode_videos(dataset: VideoDataset, codec: Codec) -> EncodedVideos:
    """Encode every video of `dataset` once, with a progress bar."""
    means, stds, items = [], [], []
    for number in progress(range(len(dataset)), desc="encoding videos", unit="video"):
        item = dataset.item(number, np.random.default_rng(number))
        video = item.pop("video")[None]
        mean = codec.encode(video)[0]
        # The latents are linear in the noise: with noise 1 they are mean plus standard deviation.
        ones = np.ones((1, *mean.shape), np.float32)
        stds.append(codec.encode(video, ones)[0] - mean)
        means.append(mean)
        items.append(item)
    return EncodedVideos(np.stack(means), np.stack(stds), collate(items))


class CachedLatentBatches(LatentBatches):
    """Encodes each video once, in `prepare`, and samples each batch from those distributions."""

    videos: EncodedVideos | None = None

    def prepare(self) -> None:
        """Encode the whole data set into memory, unless that is done."""
        if self.videos is None:
            self.videos = encode_videos(self.loader.dataset, self.codec)

    def __call__(self, start_batch: int) -> Iterator[LatentBatch]:
        """An endless iterator over the batches from number `start_batch` on.

        Raises RuntimeError unless `prepare` was called.
        """
        if self.videos is None:
            raise RuntimeError("`prepare` must be called before the first batch.")
        for batch_number in count(start_batch):
            draws = self.draws(batch_number)
            _, chosen = self.loader.indices(batch_number)
            latents = self.videos.means[chosen] + self.videos.stds[chosen] * draws.posterior_noise
            item = {name: array[chosen] for name, array in self.videos.items.items()}
            yield self.batch(latents, draws, item)


def autoencoder_batches(
    loader: Loader, latent_shape: tuple[int, int, int], frames_per_video: int, seed: int
) -> Callable[[int], Iterator[PixelBatch]]:
    """A function from a batch's number to the batches from it on, of random frames of each clip.

    Args:
        latent_shape: (Z, h, w) of the latents of one frame.
    """

    def batches(start_batch: int) -> Iterator[PixelBatch]:
        for batch_number, item in enumerate(loader.endless(start_batch), start_batch):
            pixels, noise = [], []
            for sample, video in enumerate(item["video"], _first_sample(loader, batch_number)):
                rng = generator(seed, sample)
                chosen = rng.permutation(len(video))[:frames_per_video]
                pixels.append(video[chosen])
                noise.append(rng.standard_normal((len(chosen), *latent_shape), np.float32))
            yield PixelBatch(np.concatenate(pixels), np.concatenate(noise))

    return batches


def _first_sample(loader: Loader, batch_number: int) -> int:
    """Global number of the first sample of this rank's batch."""
    return batch_number * loader.global_batch_size + loader.rank * loader.config.batch_size


def _check_text_embeddings(
    network: LatteConfig, embeddings: TextEmbeddings | None, names: list[str]
) -> None:
    if (network.conditioning == "text") != (embeddings is not None):
        raise ValueError(
            "`text_embeddings` must be passed for, and only for, `network.conditioning` text "
            f"(is {network.conditioning})."
        )
    if embeddings is not None:
        embeddings.check_names(names, "data.path")


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
