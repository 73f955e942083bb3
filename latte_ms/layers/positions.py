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


def rotary_angles(channels: int, positions: np.ndarray) -> np.ndarray:
    """p w_k, w_k = 10000^(-2k/channels), for positions (P,): (P, channels / 2), float64.

    RoFormer (arXiv 2104.09864), equation 15. Raises ValueError for an odd number of channels.
    """
    if channels % 2:
        raise ValueError(f"`channels` of a rotary embedding must be even, got {channels}.")
    frequencies = 10000.0 ** (-np.arange(channels // 2, dtype=np.float64) / (channels / 2))
    return np.outer(np.asarray(positions, np.float64), frequencies)


def rotary_angles_2d(channels: int, height: int, width: int) -> np.ndarray:
    """Of the places of a grid, rows by columns flattened: (height * width, channels / 2).

    The first half of the angles is that of the column, as in `sincos_2d`.
    """
    if channels % 4:
        raise ValueError(
            f"`channels` of a 2-D rotary embedding must be divisible by 4, got {channels}."
        )
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    halves = (rotary_angles(channels // 2, place.reshape(-1)) for place in (columns, rows))
    return np.concatenate(list(halves), axis=1)


def timestep_frequencies(count: int, max_period: float = 10000.0) -> np.ndarray:
    """exp(-ln(max_period) k / count) for k < count, in float32 like the reference: (count,)."""
    exponents = -np.log(max_period) * np.arange(count, dtype=np.float32) / count
    return np.exp(exponents.astype(np.float64)).astype(np.float32)


def spread(count: int, base: int, scale: float = 1.0) -> np.ndarray:
    """`count` evenly spaced positions in [0, base), divided by `scale`: (count,).

    i / (count / base) / scale, in float32 as in the reference.
    """
    return np.arange(count, dtype=np.float32) / np.float32(count / base) / np.float32(scale)
