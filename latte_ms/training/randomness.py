"""The random numbers of training, as a pure function of the seed and the sample's number.

Samples are numbered through the whole run, over updates, ranks and positions in a batch. No
generator has a state to save: a resumed run draws the numbers of an uninterrupted one. Two ranks,
or two accumulated batches, draw the numbers of one batch of twice the size.
"""

from dataclasses import dataclass

import numpy as np

NUM_UNIFORM = 2  # per sample, see `Draws.uniform`
_DRAWS_STREAM = 3  # keeps these streams apart from the loader's, which are 1 and 2


@dataclass(frozen=True)
class Draws:
    """Random numbers of one batch of B videos."""

    # (B,) int32, one timestep for all frames of a video. The training chain is not respaced, so
    # a timestep equals the index of its step in the chain.
    t: np.ndarray
    noise: np.ndarray  # (B, F, C, h, w) float32
    posterior_noise: np.ndarray  # (B, F, C, h, w) float32, for sampling the autoencoder's posterior
    dropped: np.ndarray  # (B,) bool: train this video without its class or caption
    # (B, 2) float64 in [0, 1), for what also depends on the state of a run: `TimestepSampler`
    uniform: np.ndarray
    # (B, F) float64 in [0, 1), to choose one of several captions: of the clip by the first number,
    # of the n joint images by the last n.
    choice: np.ndarray


def generator(seed: int, sample: int) -> np.random.Generator:
    """The random stream of sample number `sample`."""
    return np.random.default_rng((_DRAWS_STREAM, seed, sample))


def draw(
    seed: int, first: int, latent_shape: tuple[int, ...], num_train_steps: int, dropout: float
) -> Draws:
    """Draws of samples number `first` and following, for latents of shape (B, F, C, h, w)."""
    batch, *shape = latent_shape
    t, dropped, noise, posterior_noise, uniform, choice = [], [], [], [], [], []
    for sample in range(first, first + batch):
        rng = generator(seed, sample)
        t.append(rng.integers(num_train_steps))
        dropped.append(rng.random() < dropout)
        noise.append(rng.standard_normal(shape, np.float32))
        posterior_noise.append(rng.standard_normal(shape, np.float32))
        uniform.append(rng.random(NUM_UNIFORM))
        choice.append(rng.random(shape[0]))
    return Draws(
        np.array(t, np.int32),
        np.stack(noise),
        np.stack(posterior_noise),
        np.array(dropped, bool),
        np.stack(uniform),
        np.stack(choice),
    )
