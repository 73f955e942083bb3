"""Decoded frames to network input: resize and crop, flip, range [-1, 1]; numpy only.

Resizing is bilinear with pixel centres at half-integers and no antialiasing, as torch's
`interpolate(mode="bilinear", align_corners=False)`.
"""

import math

import numpy as np

CROPS = ("resize_crop", "crop_resize")


def to_square(frames: np.ndarray, size: int, crop: str = "resize_crop") -> np.ndarray:
    """`frames` (F, H, W, 3) to the centre square (F, size, size, 3), values kept in 0..255.

    `resize_crop` scales the short side to `size` and cuts the centre out (upstream's transform of
    FaceForensics and UCF101); `crop_resize` cuts the largest centre square out and scales it
    (SkyTimelapse). They differ by a fraction of a pixel. A picture of `size` x `size` comes back
    as it is, uint8; all others come back float32.
    """
    if crop not in CROPS:
        raise ValueError(f"`crop` must be one of {CROPS}, got {crop!r}.")
    height, width = frames.shape[1:3]
    if (height, width) == (size, size):
        return frames
    if crop == "resize_crop":
        scale = size / min(height, width)
        rows = resized_positions(height, scale, _centre(_scaled(height, scale, size), size), size)
        columns = resized_positions(width, scale, _centre(_scaled(width, scale, size), size), size)
        return sample_bilinear(frames, rows, columns)
    side = min(height, width)
    top, left = _centre(height, side), _centre(width, side)
    frames = frames[:, top : top + side, left : left + side]
    positions = resized_positions(side, size / side, 0, size)
    return sample_bilinear(frames, positions, positions)


def resized_positions(length: int, scale: float, start: int, count: int) -> np.ndarray:
    """Where pixels start .. start+count-1 of an axis resized by `scale` lie on the old axis.

    (count,) float64 in 0..length-1: (i + 0.5) / scale - 0.5, clipped at the edges.
    """
    positions = (np.arange(start, start + count) + 0.5) / scale - 0.5
    return np.clip(positions, 0.0, length - 1.0)


def sample_bilinear(frames: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`frames` (F, H, W, C) on the grid of ascending `rows` (h,) and `columns` (w,).

    Returns (F, h, w, C) float32.
    """
    top, left = int(rows[0]), int(columns[0])  # nothing outside of the cut is touched
    cut = frames[:, top : math.ceil(rows[-1]) + 1, left : math.ceil(columns[-1]) + 1]
    down = _interpolate(cut, rows - top, axis=1)  # (F, h, W', C)
    return _interpolate(down, columns - left, axis=2)  # (F, h, w, C)


def to_network(frames: np.ndarray, flip: bool = False) -> np.ndarray:
    """(F, H, W, 3) in 0..255 to (F, 3, H, W) float32 in [-1, 1]; `flip` mirrors left to right."""
    if flip:
        frames = frames[:, :, ::-1]
    pixels = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), dtype=np.float32)
    pixels *= 1.0 / 127.5
    pixels -= 1.0
    return pixels


def _scaled(length: int, scale: float, size: int) -> int:
    """Length after resizing; the floor of a rounded product may fall one short of `size`."""
    return max(size, math.floor(length * scale))


def _centre(length: int, size: int) -> int:
    """Start of the centre cut; halves go to the even number, as upstream."""
    return round((length - size) / 2)


def _interpolate(frames: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation of (F, H, W, C) along `axis` at `positions`, float32."""
    low = np.floor(positions).astype(np.intp)
    high = np.minimum(low + 1, frames.shape[axis] - 1)
    shape = [1] * frames.ndim
    shape[axis] = -1
    share = (positions - low).astype(np.float32).reshape(shape)
    first = np.take(frames, low, axis).astype(np.float32, copy=False)
    second = np.take(frames, high, axis).astype(np.float32, copy=False)
    second = second - first
    second *= share
    second += first
    return second
