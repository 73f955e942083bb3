"""Training batches, which include all their random numbers."""

from collections.abc import Callable, Generator, Sequence

import numpy as np

from latte_ms.data.datasets import Item
from latte_ms.data.loader import Loader
from latte_ms.training.batch import LatentBatch, PixelBatch
from latte_ms.training.conditions import ConditionSource
from latte_ms.training.latents import EncodedClips, LatentSource
from latte_ms.training.randomness import Draws, draw, generator


class LatentBatches:
    """Latents with noise, timesteps and conditions.

    The latents are sampled anew from the autoencoder's posterior each time. Random numbers are
    drawn for whole clips; of latents and noise a batch holds the frames that its source has.

    Args:
        clip_shape: (F, C, h, w) of a clip's latents, joint images included.
        num_train_steps: of the training schedule.
        seed: of timesteps, noise, dropout of conditions and the samples of the posterior.
        dropout: the share of the clips whose condition is dropped.
    """

    def __init__(
        self,
        source: LatentSource,
        conditions: ConditionSource,
        clip_shape: tuple[int, int, int, int],
        num_train_steps: int,
        seed: int,
        dropout: float = 0.0,
    ) -> None:
        self.source, self.conditions = source, conditions
        self.shape = (source.order.batch_size, *clip_shape)
        self.num_train_steps, self.seed, self.dropout = num_train_steps, seed, dropout

    def __call__(self, start_batch: int) -> Generator[LatentBatch, None, None]:
        """An endless iterator over the batches from number `start_batch` on."""
        for batch_number, clips in enumerate(self.source(start_batch), start_batch):
            yield self.batch(clips, self.draws(batch_number))

    def draws(self, batch_number: int) -> Draws:
        """The random numbers of this rank's batch of that number."""
        first = self.source.order.first_sample(batch_number)
        return draw(self.seed, first, self.shape, self.num_train_steps, self.dropout)

    def batch(self, clips: EncodedClips, draws: Draws) -> LatentBatch:
        """The batch of `clips` with these random numbers."""
        frames = self.source.frames
        latents = clips.sample(draws.posterior_noise[:, frames])
        conditions = self.conditions(clips.item, draws)
        videos = videos_of(clips.item, self.source.names)
        noise = draws.noise[:, frames]
        return LatentBatch(latents, noise, draws.t, conditions, draws.uniform, videos)


def videos_of(item: Item, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the videos that a batch was made from, those of its joint images last.

    `item` is the batch as the dataset gives it, `names` are those of all videos.
    """
    numbers = [item[key].ravel() for key in ("index", "image_indices") if key in item]
    return tuple(names[number] for number in np.concatenate(numbers))


def autoencoder_batches(
    loader: Loader, latent_shape: tuple[int, int, int], frames_per_video: int, seed: int
) -> Callable[[int], Generator[PixelBatch, None, None]]:
    """A function from a batch's number to the batches from it on, of random frames of each clip.

    Args:
        latent_shape: (Z, h, w) of the latents of one frame.
    """

    names = loader.dataset.names

    def batches(start_batch: int) -> Generator[PixelBatch, None, None]:
        for batch_number, item in enumerate(loader.endless(start_batch), start_batch):
            pixels, noise = [], []
            first = loader.order.first_sample(batch_number)
            for sample, video in enumerate(item["video"], first):
                rng = generator(seed, sample)
                chosen = rng.permutation(len(video))[:frames_per_video]
                pixels.append(video[chosen])
                noise.append(rng.standard_normal((len(chosen), *latent_shape), np.float32))
            videos = videos_of(item, names)
            yield PixelBatch(np.concatenate(pixels), np.concatenate(noise), videos=videos)

    return batches
