"""Large images in overlapping tiles, blended where they overlap, as in diffusers.

A tile overlaps the next one by a quarter of its side. The result is near that of the whole image,
not equal: normalisation and attention see one tile at a time.
"""

from collections.abc import Callable

import numpy as np

OVERLAP_DIVISOR = 4  # neighbouring tiles share 1 / OVERLAP_DIVISOR of their side


def check_tile_size(tile_size: int, downsampling: int) -> None:
    """Raise ValueError unless tiles and their overlaps are whole numbers of latent pixels."""
    unit = OVERLAP_DIVISOR * downsampling
    if tile_size < unit or tile_size % unit:
        raise ValueError(
            f"`tile_size` must be a multiple of {unit} pixels, {OVERLAP_DIVISOR} latent pixels, "
            f"got {tile_size}."
        )


def tiled(
    function: Callable[[np.ndarray], np.ndarray], images: np.ndarray, side: int, out_side: int
) -> np.ndarray:
    """`function` over the tiles of `images` (N, C, H, W), its results blended into one.

    Tiles at the lower and right edge are smaller, so that up to four shapes are compiled.

    Args:
        function: (N, C, h, w) to (N, C', h', w').
        side: side of an input tile.
        out_side: side of an output tile.
    """
    height, width = images.shape[2:]
    if height <= side and width <= side:
        return function(images)
    step, overlap = side - side // OVERLAP_DIVISOR, out_side // OVERLAP_DIVISOR
    inner = out_side - overlap
    row_above: list[np.ndarray] = []
    rows = []
    for top in range(0, height, step):
        row: list[np.ndarray] = []
        for i, left in enumerate(range(0, width, step)):
            tile = images[:, :, top : top + side, left : left + side]
            result = np.array(function(np.ascontiguousarray(tile)))
            if row_above:
                _blend(row_above[i], result, overlap, axis=2)
            if row:
                _blend(row[-1], result, overlap, axis=3)
            row.append(result)
        row_above = row
        rows.append(np.concatenate([tile[:, :, :inner, :inner] for tile in row], 3))
    return np.concatenate(rows, 2)


def _blend(previous: np.ndarray, tile: np.ndarray, overlap: int, axis: int) -> None:
    """Blend the first rows or columns of `tile`, in place, with the last ones of `previous`."""
    extent = min(previous.shape[axis], tile.shape[axis], overlap)
    old, new = np.moveaxis(previous, axis, -1)[..., -extent:], np.moveaxis(tile, axis, -1)
    weight = np.arange(extent, dtype=np.float64) / extent
    faded = old * (1 - weight).astype(np.float32)
    new[..., :extent] = faded + new[..., :extent] * weight.astype(np.float32)
