"""Where training batches take their latents from: videos, encoded at each use, or a cache.

Shapes: B clips of F frames (and joint images), C latent channels, h w latent size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from latte_ms.data.datasets import Item
from latte_ms.data.loader import Loader
from latte_ms.data.order import Order
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.vae.codec import Codec

ALL_FRAMES = slice(None)


@dataclass(frozen=True)
class EncodedClips:
    """The clips of one batch, as a distribution of latents.

    Attributes:
        item: what the dataset says about the clips besides their pixels, each (B, ...).
        sample: standard normal noise (B, F, C, h, w) to latents of that shape, float32.
    """

    item: Item
    sample: Callable[[np.ndarray], np.ndarray]


class LatentSource(Protocol):
    """The clips of one rank's batches."""

    @property
    def order(self) -> Order:
        """Which clips a batch has."""

    @property
    def names(self) -> list[str]:
        """Of all videos; an `index` of `EncodedClips.item` is a position in this list."""

    @property
    def frames(self) -> slice:
        """The frames of each clip (and joint images) that this rank has."""

    def __call__(self, start_batch: int) -> Iterator[EncodedClips]:
        """An endless iterator over the batches from number `start_batch` on."""


class OnlineLatents:
    """Encodes the loader's pixels batch by batch; of each clip those of `frames`."""

    def __init__(self, loader: Loader, codec: Codec, frames: slice = ALL_FRAMES) -> None:
        self.loader, self.codec, self.frames = loader, codec, frames
        self.order, self.names = loader.order, loader.dataset.names

    def __call__(self, start_batch: int) -> Iterator[EncodedClips]:
        """An endless iterator over the batches from number `start_batch` on."""
        for item in self.loader.endless(start_batch):
            rest = {name: array for name, array in item.items() if name != "video"}
            pixels = np.ascontiguousarray(item["video"][:, self.frames])  # a copy of a part alone
            yield EncodedClips(rest, partial(self.codec.encode, pixels))


class CachedLatents:
    """Samples the distributions that the loader, of `CachedClips`, reads from a cache.

    Of each clip it has those of `frames`.
    """

    def __init__(self, loader: Loader, frames: slice = ALL_FRAMES) -> None:
        self.loader, self.frames = loader, frames
        self.order, self.names = loader.order, loader.dataset.names

    def __call__(self, start_batch: int) -> Iterator[EncodedClips]:
        """An endless iterator over the batches from number `start_batch` on."""
        for item in self.loader.endless(start_batch):
            mean, std = (item.pop(name)[:, self.frames] for name in ("mean", "std"))
            mean, std = mean.astype(np.float32), std.astype(np.float32)
            yield EncodedClips(item, partial(_sample, mean, std))


def _sample(mean: np.ndarray, std: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return mean + std * noise


def check_latent_shape(network: LatteConfig, image_size: int, codec: Codec) -> None:
    """Raise ValueError unless frames of `image_size` pixels have latents of the network's size."""
    side, factor = network.input_size, codec.config.downsampling
    if side * factor != image_size:
        raise ValueError(
            f"`network.input_size` (={side}) must be `data.image_size` (={image_size}) over the "
            f"autoencoder's downsampling (={factor})."
        )
    check_channels(network.in_channels, codec)


def latent_side(image_size: int, patch_size: int, in_channels: int, codec: Codec) -> int:
    """Height and width of the latents, for a network that takes any size of whole patches.

    Raises ValueError where the size or the channels of the latents do not fit.
    """
    factor = codec.config.downsampling
    if image_size % (factor * patch_size):
        raise ValueError(
            f"`data.image_size` (={image_size}) must be divisible by the autoencoder's "
            f"downsampling (={factor}) times `network.patch_size` (={patch_size})."
        )
    check_channels(in_channels, codec)
    return image_size // factor


def check_channels(in_channels: int, codec: Codec) -> None:
    """Raise ValueError unless the network takes the channels of the autoencoder's latents."""
    if in_channels != codec.config.latent_channels:
        raise ValueError(
            f"`network.in_channels` (={in_channels}) must equal the autoencoder's "
            f"`latent_channels` (={codec.config.latent_channels})."
        )
