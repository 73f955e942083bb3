"""What a training step draws at random, as a pure function of (seed, rank, step).

No generator has a state to be saved: a resumed run draws what the uninterrupted one would have.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draws:
    """Random numbers of one step for a batch of B videos."""

    t: np.ndarray  # (B,) int32 timesteps, one for all frames of a video
    noise: np.ndarray  # (B, F, C, h, w) float32
    posterior: np.ndarray  # (B, F, C, h, w) float32, of the autoencoder's sample
    dropped: np.ndarray  # (B,) bool: this video's labels become "no class"


def draw(
    seed: int,
    rank: int,
    step: int,
    latent_shape: tuple[int, ...],
    num_timesteps: int,
    dropout: float,
) -> Draws:
    """Draws of update number `step` on `rank`, for latents of `latent_shape` (B, F, C, h, w)."""
    rng = np.random.default_rng((seed, rank, step))
    batch = latent_shape[0]
    return Draws(
        t=rng.integers(0, num_timesteps, batch, dtype=np.int32),
        dropped=rng.random(batch) < dropout,
        noise=rng.standard_normal(latent_shape, np.float32),
        posterior=rng.standard_normal(latent_shape, np.float32),
    )
