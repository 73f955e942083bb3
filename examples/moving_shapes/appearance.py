"""The shape and the colour that each frame of a moving-shapes video shows, without any network.

The shape is what differs from the colour of the image's border. Its colour is that of its core; its
form is that of the drawn template, of all shapes, sizes and positions in question, that the share
by which it covers each pixel resembles most.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.moving_shapes.direction import border_colour, shape_centroid
from examples.moving_shapes.shapes import COLOURS, SHAPES, coverage

CONSTANT = 14 / 16  # share of the frames that must show the same

_CORE = 0.8  # of the strongest coverage: pixels that show the shape's own colour
_FARTHEST = 90.0  # length of an RGB difference: a colour farther from all names has none
_LEAST_LIKENESS = 0.9  # cosine: less than that is none of the shapes
# Templates, in pixels of a 64 x 64 image.
_REFERENCE_SIZE = 64
_RADII = np.arange(7.0, 12.6, 0.5)
_OFFSETS = np.arange(-1.5, 1.6, 0.5)
_WINDOW = 32
_BLURS = (0.0, 1.0)  # standard deviation: a sharp drawing, the output of an autoencoder


@dataclass(frozen=True)
class Appearance:
    """What the frames of one video show, None where it cannot be told."""

    colour: str | None  # what most frames show
    colour_frames: int  # how many
    shape: str | None
    shape_frames: int
    num_frames: int

    @property
    def constant_colour(self) -> bool:
        """Whether at least 14 of 16 frames show the same colour."""
        return self.colour is not None and self.colour_frames >= CONSTANT * self.num_frames

    @property
    def constant_shape(self) -> bool:
        """Whether at least 14 of 16 frames show the same shape."""
        return self.shape is not None and self.shape_frames >= CONSTANT * self.num_frames


def judge_appearance(frames: np.ndarray) -> Appearance:
    """The colour and the shape in `frames` (F, H, W, 3) uint8, by the majority of the frames.

    Raises ValueError for an array of another shape.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 1:
        raise ValueError(f"`frames` must be (F, H, W, 3) with F >= 1, got {frames.shape}.")
    verdicts = [frame_appearance(frame) for frame in _shrunk(frames)]
    colour, colour_frames = majority([one for one, _ in verdicts])
    shape, shape_frames = majority([one for _, one in verdicts])
    return Appearance(colour, colour_frames, shape, shape_frames, len(frames))


def majority(names: Sequence[str | None]) -> tuple[str | None, int]:
    """The most frequent name, and how often it occurs; (None, 0) if there are only Nones."""
    counts = Counter(name for name in names if name is not None)
    return counts.most_common(1)[0] if counts else (None, 0)


def frame_appearance(frame: np.ndarray) -> tuple[str | None, str | None]:
    """The names of colour and shape in `frame` (H, W, 3), each None where it cannot be told."""
    centre = shape_centroid(frame)
    if centre is None:
        return None, None
    background, contrast, covered = contrast_and_cover(frame.astype(np.float64))
    return nearest_colour(background + contrast), nearest_shape(covered, centre)


def contrast_and_cover(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `pixels` (H, W, 3) in 0..255 show, as a shape on a plain background.

    Returns the background's colour (3,), what the shape's colour adds to it (3,), and the share of
    each pixel that the shape covers, (H, W) in 0..1. The two colours must differ.
    """
    background = border_colour(pixels)
    contrast = _core_colour(pixels, background) - background
    covered = np.clip((pixels - background) @ contrast / (contrast @ contrast), 0.0, 1.0)
    return background, contrast, covered


def nearest_colour(rgb: np.ndarray) -> str | None:
    """The name in `COLOURS` nearest to `rgb` (3,) in 0..255; None if all are far away."""
    distances = {name: float(np.linalg.norm(rgb - value)) for name, value in COLOURS.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= _FARTHEST else None


def nearest_shape(covered: np.ndarray, centre: np.ndarray) -> str | None:
    """The name in `SHAPES` that `covered` (H, W) in 0..1 resembles most around `centre` (x, y).

    Likeness is the cosine between coverage and template; None if no template comes near.
    """
    scale = max(covered.shape) / _REFERENCE_SIZE
    side = round(_WINDOW * scale)
    padded = np.pad(covered, side)
    x, y = np.clip(
        np.floor(centre).astype(int) + side - side // 2, 0, np.array(covered.shape[::-1]) + side
    )
    window = padded[y : y + side, x : x + side].ravel().astype(np.float32)
    names, bank = _templates(scale, side)
    # What lies outside of the window is like no template: it makes the cosine smaller.
    likeness = bank @ window / max(float(np.linalg.norm(covered)), 1e-9)
    best = int(likeness.argmax())
    return names[best] if likeness[best] >= _LEAST_LIKENESS else None


def _core_colour(pixels: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The median colour (3,) of the pixels that differ most from `background`."""
    difference = np.linalg.norm(pixels - background, axis=-1)
    strongest = float(np.percentile(difference, 99.0))
    return np.median(pixels[difference >= _CORE * strongest], axis=0)


def _shrunk(frames: np.ndarray) -> np.ndarray:
    """Means over square blocks of `frames` (F, H, W, 3), so that the longer side is below 128."""
    block = max(1, max(frames.shape[1:3]) // _REFERENCE_SIZE)
    count, height, width = len(frames), frames.shape[1] // block, frames.shape[2] // block
    whole = frames[:, : height * block, : width * block].astype(np.float64)
    return whole.reshape(count, height, block, width, block, 3).mean((2, 4))


@functools.lru_cache(maxsize=4)
def _templates(scale: float, side: int) -> tuple[list[str], np.ndarray]:
    """Names, and drawings (T, side * side) of length 1 whose centres are near the window's."""
    offsets = scale * _OFFSETS
    dx, dy = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    centres = side // 2 + 0.5 + np.stack([dx, dy], axis=1)
    names, drawings = [], []
    for shape in SHAPES:
        for radius in scale * _RADII:
            drawn = coverage(shape, radius, centres, side)
            for blur in _BLURS:
                drawings.append(_blurred(drawn, scale * blur).reshape(len(centres), -1))
                names += [shape] * len(centres)
    bank = np.concatenate(drawings)
    return names, (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)


def _blurred(drawings: np.ndarray, deviation: float) -> np.ndarray:
    """Each of (T, H, W) convolved with a Gaussian, in pixels; black outside."""
    if deviation == 0:
        return drawings
    reach = np.arange(drawings.shape[-1])
    kernel = np.exp(-((reach[:, None] - reach) ** 2) / (2 * deviation**2))
    kernel /= kernel[len(reach) // 2].sum()
    return kernel @ drawings @ kernel
