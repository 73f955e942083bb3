"""How far generated moving-shapes videos are from real ones, without any network.

A video is described by a few numbers of its motion and of its appearance; the Fréchet distance
compares their means and covariances over two sets of videos, as FVD does with the features of a
network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.moving_shapes.appearance import contrast_and_cover
from examples.moving_shapes.direction import fit_line, shape_centroid
from latte_ms.metrics.frechet import Gaussian, frechet_distance

KINDS = ("motion", "appearance")

# What counts as one step in a feature: a length is a typical radius of a shape.
_LENGTH = 9.0  # pixels of a 64 x 64 image
_COLOUR = 64.0  # of 255
_REFERENCE_SIZE = 64
_MIN_VISIBLE = 0.5  # share of the frames that must show a shape


@dataclass(frozen=True)
class Features:
    """Of one video. Lengths are in units of 9 pixels of a 64 x 64 image, colours in 64 levels."""

    motion: np.ndarray  # (5,) start (x, y), end (x, y), mean distance to the straight path
    # (9,) colour of the shape and of the background, root of the area, and the deviation of the
    # shape's colour and of the root of the area over the frames
    appearance: np.ndarray


def features(frames: np.ndarray) -> Features | None:
    """Those of `frames` (F, H, W, 3) uint8; None if most of the frames show no shape."""
    pixels = frames.astype(np.float64)
    found = [(i, centre) for i, f in enumerate(frames) if (centre := shape_centroid(f)) is not None]
    if len(found) < max(2.0, _MIN_VISIBLE * len(frames)):
        return None
    unit = _LENGTH * max(frames.shape[1:3]) / _REFERENCE_SIZE
    times = np.array([i for i, _ in found], np.float64)
    centres = np.array([centre for _, centre in found])
    velocity, _ = fit_line(times, centres)
    origin = np.median(centres - times[:, None] * velocity, axis=0)
    wobble = np.linalg.norm(centres - times[:, None] * velocity - origin, axis=1).mean()
    end = origin + (len(frames) - 1) * velocity
    motion = np.concatenate([origin, end, [wobble]]) / unit

    seen = [contrast_and_cover(pixels[i]) for i, _ in found]
    colours = np.array([background + contrast for background, contrast, _ in seen]) / _COLOUR
    backgrounds = np.array([background for background, _, _ in seen]) / _COLOUR
    roots = np.array([np.sqrt(covered.sum()) for _, _, covered in seen]) / unit
    flicker = np.linalg.norm(colours.std(0))
    parts = [colours.mean(0), backgrounds.mean(0), [roots.mean(), flicker, roots.std()]]
    return Features(motion, np.concatenate(parts))


def distances(first: Sequence[Features], second: Sequence[Features]) -> dict[str, float]:
    """The Fréchet distances of two sets of videos, of at least 2 each: motion and appearance."""
    return {
        name: distance(
            np.array([getattr(one, name) for one in first]),
            np.array([getattr(one, name) for one in second]),
        )
        for name in KINDS
    }


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The Fréchet distance of two sets of features (N, D), their covariances over N - 1.

    Raises ValueError for other shapes, or fewer than 2 rows.
    """
    return frechet_distance(Gaussian.of(first, unbiased=True), Gaussian.of(second, unbiased=True))
