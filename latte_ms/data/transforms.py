"""Decoded frames to pixel values, in numpy: resize and crop, flip, range [-1, 1].

Resizing is bilinear with pixel centres at half-integers and no antialiasing, as torch's
`interpolate(mode="bilinear", align_corners=False)`.
"""

import math

import numpy as np

from latte_ms.messages import shown

CROPS = ("resize_crop", "crop_resize")


def to_square(frames: np.ndarray, size: int, crop: str = "resize_crop") -> np.ndarray:
    """The centre square (F, size, size, 3) of `frames` (F, H, W, 3), values in 0..255.

    `resize_crop` scales the short side to `size`, then crops the centre (upstream's transform of
    FaceForensics and UCF101); `crop_resize` crops the largest centre square, then scales it
    (SkyTimelapse). They differ by a fraction of a pixel. Frames of `size` x `size` are returned
    unchanged, uint8; all others are returned as float32.
    """
    if crop not in CROPS:
        raise ValueError(f"`crop` must be one of {CROPS}, got {shown(crop)}.")
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
    """Source positions of output pixels start ... start+count-1 when an axis is resized by `scale`.

    (count,) float64: (i + 0.5) / scale - 0.5, clamped to [0, length - 1].
    """
    positions = (np.arange(start, start + count) + 0.5) / scale - 0.5
    return np.clip(positions, 0.0, length - 1.0)


def sample_bilinear(frames: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`frames` (F, H, W, C) on the grid of ascending `rows` (h,) and `columns` (w,).

    Returns (F, h, w, C) float32.
    """
    top, left = int(rows[0]), int(columns[0])  # crop first: pixels outside are not needed
    cropped = frames[:, top : math.ceil(rows[-1]) + 1, left : math.ceil(columns[-1]) + 1]
    resized_rows = _interpolate(cropped, rows - top, axis=1)  # (F, h, W', C)
    return _interpolate(resized_rows, columns - left, axis=2)  # (F, h, w, C)


def to_pixel_values(frames: np.ndarray, flip: bool = False) -> np.ndarray:
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
    """Start of the centre crop; halves are rounded to even, as upstream."""
    return round((length - size) / 2)


def _interpolate(frames: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation of (F, H, W, C) along `axis` at `positions`, float32."""
    low = np.floor(positions).astype(np.intp)
    high = np.minimum(low + 1, frames.shape[axis] - 1)
    shape = [1] * frames.ndim
    shape[axis] = -1
    weight = (positions - low).astype(np.float32).reshape(shape)
    first = np.take(frames, low, axis).astype(np.float32, copy=False)
    second = np.take(frames, high, axis).astype(np.float32, copy=False)
    result = second - first
    result *= weight
    result += first
    return result
