"""The direction, one of 8, in which the single shape of a video moves, without any network.

The background is the colour of the image's border, the shape is what differs from it, and the
direction is that of a straight line fitted through the shape's centroids.
"""

from dataclasses import dataclass

import numpy as np

NUM_DIRECTIONS = 8
UNDECIDED = -1

_BORDER = 2  # pixels
_MIN_CONTRAST = 30.0  # length of an RGB difference, 0..441: below it a frame shows no shape
_RELATIVE_THRESHOLD = 0.4  # of the strongest difference in the frame
_MAX_AREA = 0.5  # share of the image: a larger area is no shape
_MIN_TRAVEL = 1 / 16  # of the image's side, over the whole video


@dataclass(frozen=True)
class Motion:
    """The motion of the shape in one video."""

    direction: int  # 0..7 anticlockwise from east with y up, or UNDECIDED
    angle: float  # degrees, 0 east, 90 north; nan if undecided
    speed: float  # pixels per frame
    residual: float  # median distance of the centroids to the fitted line, in pixels
    visible: float  # share of the frames in which a shape was found


def judge_motion(frames: np.ndarray) -> Motion:
    """The motion in `frames` (F, H, W, 3) uint8.

    Undecided when a shape is visible in fewer than half of the frames, or hardly moves. Raises
    ValueError for an array of another shape or fewer than 2 frames.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(f"`frames` must be (F, H, W, 3) with F >= 2, got {frames.shape}.")
    centroids = [shape_centroid(frame) for frame in frames]
    times = np.array([i for i, c in enumerate(centroids) if c is not None], np.float64)
    visible = len(times) / len(frames)
    if visible < 0.5 or len(times) < 2:
        return Motion(UNDECIDED, float("nan"), 0.0, float("nan"), visible)
    centres = np.array([c for c in centroids if c is not None])
    velocity, residual = fit_line(times, centres)
    speed = float(np.hypot(*velocity))
    angle = float(np.degrees(np.arctan2(-velocity[1], velocity[0])) % 360.0)
    if speed * (len(frames) - 1) < _MIN_TRAVEL * max(frames.shape[1:3]):
        return Motion(UNDECIDED, float("nan"), speed, residual, visible)
    return Motion(nearest_direction(angle), angle, speed, residual, visible)


def shape_centroid(frame: np.ndarray) -> np.ndarray | None:
    """The shape's centre (x to the right, y down) in `frame` (H, W, 3); None if there is none."""
    pixels = _blur(frame.astype(np.float64))
    difference = np.linalg.norm(pixels - border_colour(pixels), axis=-1)  # (H, W)
    strongest = float(np.percentile(difference, 99.5))
    if strongest < _MIN_CONTRAST:
        return None
    weight = np.maximum(difference - _RELATIVE_THRESHOLD * strongest, 0.0)
    if np.mean(weight > 0) > _MAX_AREA:
        return None
    total = weight.sum()
    y = (weight.sum(1) * np.arange(len(weight))).sum() / total
    x = (weight.sum(0) * np.arange(weight.shape[1])).sum() / total
    return np.array([x, y]) + 0.5


def border_colour(frame: np.ndarray) -> np.ndarray:
    """The median colour (3,) of the outermost pixels of `frame` (H, W, 3)."""
    inner = np.ones(frame.shape[:2], bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.median(frame[inner], axis=0)


def fit_line(times: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Velocity (2,) of a straight motion through `centres` (F, 2), and the median distance to it.

    Theil-Sen estimator, per coordinate: the median of the slopes of all pairs, so that a few
    misplaced centroids do not turn the line.
    """
    i, j = np.triu_indices(len(times), k=1)
    slopes = (centres[j] - centres[i]) / (times[j] - times[i])[:, None]
    velocity = np.median(slopes, axis=0)
    offsets = centres - times[:, None] * velocity
    distance = np.linalg.norm(offsets - np.median(offsets, axis=0), axis=1)
    return velocity, float(np.median(distance))


def nearest_direction(angle: float) -> int:
    """The index 0..7 of the direction nearest to `angle` in degrees."""
    return round(angle / (360 / NUM_DIRECTIONS)) % NUM_DIRECTIONS


def _blur(pixels: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels, edges repeated: single noisy pixels must not look like a shape."""
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9.0
