"""Fixed sine-cosine position embeddings, in numpy float64 until they are stored."""

import numpy as np


def sincos_1d(channels: int, positions: np.ndarray) -> np.ndarray:
    """[sin(p w_k) | cos(p w_k)], w_k = 10000^(-2k/channels), for positions (...): (P, channels)."""
    if channels % 2:
        raise ValueError(f"`channels` of a position embedding must be even, got {channels}.")
    frequencies = 10000.0 ** (-np.arange(channels // 2, dtype=np.float64) / (channels / 2))
    angles = np.outer(np.asarray(positions, np.float64).reshape(-1), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(
    channels: int, height_positions: np.ndarray, width_positions: np.ndarray
) -> np.ndarray:
    """Rows by columns flattened, (H*W, channels); the first half of the channels is the column."""
    if channels % 4:
        raise ValueError(
            f"`channels` of a 2-D position embedding must be divisible by 4, got {channels}."
        )
    rows, columns = np.meshgrid(height_positions, width_positions, indexing="ij")
    return np.concatenate(
        [sincos_1d(channels // 2, columns), sincos_1d(channels // 2, rows)], axis=1
    )


def timestep_frequencies(count: int, max_period: float = 10000.0) -> np.ndarray:
    """exp(-ln(max_period) k / count) for k < count, in float32 like the reference: (count,)."""
    exponents = -np.log(max_period) * np.arange(count, dtype=np.float32) / count
    return np.exp(exponents.astype(np.float64)).astype(np.float32)


def spread(count: int, base: int, scale: float = 1.0) -> np.ndarray:
    """`count` evenly spaced positions in [0, base), divided by `scale`: (count,).

    i / (count / base) / scale, in float32 as in the reference.
    """
    return np.arange(count, dtype=np.float32) / np.float32(count / base) / np.float32(scale)
