"""Random numbers of sampling, drawn sample by sample so that no batch size changes a result."""

from collections.abc import Iterator, Sequence

import numpy as np

_START, _STEPS = 0, 1  # streams of one seed: equal draws at the start and in a step would correlate


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal x_T, one seed per sample: (B, *shape) float32 for shape (F, C, H, W)."""
    return np.stack([_generator(seed, _START).standard_normal(shape, np.float32) for seed in seeds])


def noise_bank(seeds: Sequence[int], num_steps: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise of `num_steps` sampling steps: (num_steps, B, *shape) float32.

    Row i belongs to the i-th executed step. Sample b depends on `seeds[b]` alone.
    """
    return next(noise_chunks(seeds, num_steps, shape, rows=num_steps))


def noise_chunks(
    seeds: Sequence[int], num_steps: int, shape: tuple[int, ...], rows: int
) -> Iterator[np.ndarray]:
    """`noise_bank` in consecutive parts of `rows` steps, (rows, B, *shape) each.

    The last part is filled up with zeros to the same shape, so that one compiled graph takes all.
    """
    generators = [_generator(seed, _STEPS) for seed in seeds]
    for first in range(0, num_steps, rows):
        count = min(rows, num_steps - first)
        part = np.zeros((rows, len(generators), *shape), np.float32)
        for b, generator in enumerate(generators):
            part[:count, b] = generator.standard_normal((count, *shape), np.float32)
        yield part


def _generator(seed: int, stream: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"`seeds` must not be negative, got {seed}.")
    return np.random.default_rng((seed, stream))
