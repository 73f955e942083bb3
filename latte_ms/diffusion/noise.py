"""Random numbers of sampling: one generator per video, so that no batch size changes a result."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

SeedOrGenerator: TypeAlias = int | np.random.Generator


def generators(
    seeds: SeedOrGenerator | Sequence[SeedOrGenerator] | None, count: int
) -> list[np.random.Generator]:
    """The generator of random numbers of each of `count` videos.

    Everything that a video draws, from its initial noise to that of its last step, comes from its
    own rng, in this order.

    Args:
        seeds: a number s (video i takes s + i), a number or generator per video, or one generator,
            which is the first video's and spawns those of the others; None takes a fresh seed.
    """
    if isinstance(seeds, np.random.Generator):
        return [seeds, *(seeds.spawn(count - 1) if count > 1 else ())]
    if seeds is None:
        return [np.random.default_rng() for _ in range(count)]
    if isinstance(seeds, Sequence):  # default_rng returns a Generator unchanged
        return [np.random.default_rng(seed) for seed in seeds]
    return [np.random.default_rng(seeds + i) for i in range(count)]


class FramesFirst(np.random.Generator):
    """A generator of noise (1, F, C, h, w) whose numbers are those of (1, C, F, h, w).

    So a video drawn frame by frame has the noise that diffusers' layout gives it. The state is that
    of the generator whose `bit_generator` it is made from.
    """

    def standard_normal(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(size, tuple) and len(size) == 5:
            b, f, c, h, w = size
            drawn = super().standard_normal((b, c, f, h, w), *args, **kwargs)
            return np.ascontiguousarray(drawn.transpose(0, 2, 1, 3, 4))
        return super().standard_normal(size, *args, **kwargs)


def check_seeds(name: str, seeds: Any, count: int) -> None:
    """Raise ValueError unless `generators` can make generators for `count` videos from `seeds`."""
    several = isinstance(seeds, Sequence) and not isinstance(seeds, str)
    values = list(seeds) if several else [seeds]
    if several and len(values) != count:
        raise ValueError(
            f"`{name}` must hold one seed or generator per video ({count}), got {len(values)}."
        )
    for seed in values:
        is_number = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
        fits = (is_number and seed >= 0) or isinstance(seed, np.random.Generator)
        if not (fits or (seed is None and not several)):
            raise ValueError(
                f"`{name}` must be a seed of at least 0, a numpy Generator, or a list of them, "
                f"got {seed!r}."
            )


def standard_normal(rngs: Sequence[np.random.Generator], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise, one draw of `shape` from each generator: (B, *shape) float32."""
    return np.stack([rng.standard_normal(shape).astype(np.float32) for rng in rngs])


def noise_blocks(
    rngs: Sequence[np.random.Generator], num_steps: int, shape: tuple[int, ...], rows: int
) -> Iterator[np.ndarray]:
    """The noise of `num_steps` sampling steps in blocks of `rows` steps: (rows, B, *shape) each.

    The last block is filled up with zeros to the same shape, so that one compiled graph takes all.
    """
    for first in range(0, num_steps, rows):
        count = min(rows, num_steps - first)
        block = np.zeros((rows, len(rngs), *shape), np.float32)
        for b, rng in enumerate(rngs):
            block[:count, b] = rng.standard_normal((count, *shape))
        yield block
