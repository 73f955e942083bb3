"""Networks whose features are compared, with what turns frames into their input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from mindspore import Tensor

from latte_ms import weights
from latte_ms.data.transforms import resized_positions, sample_bilinear, to_pixel_values
from latte_ms.metrics.i3d import I3D, IMAGE_SIZE, MIN_FRAMES, NUM_CLASSES
from latte_ms.metrics.packages import described, fetched


class Detector(Protocol):
    """What features are computed by."""

    num_features: int
    identity: Mapping[str, str]  # what a figure has to name: the network and its weights

    def check(self, num_frames: int) -> None:
        """Raise ValueError for clips that it cannot look at."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features (D,) float32 of a clip (T, H, W, 3) uint8."""
        ...


class I3DDetector:
    """The 400 logits of I3D: frames are resized to 224 x 224 bilinearly, without antialiasing.

    Args:
        path: file of the weights; None for those that `fetch_detectors.py` has put into the user's
            cache.
    Raises:
        FileNotFoundError: there is no such file.
        WeightError: it does not hold the network.
    """

    num_features = NUM_CLASSES

    def __init__(self, path: str | Path | None = None) -> None:
        path = fetched("i3d") if path is None else Path(path)
        self._network = I3D()
        self._network.set_train(False)
        weights.load(self._network, path)
        self.identity: Mapping[str, str] = {"network": "I3D", "weights": described(path)}

    def check(self, num_frames: int) -> None:
        if num_frames < MIN_FRAMES:
            raise ValueError(f"`num_frames` must be at least {MIN_FRAMES}, got {num_frames}.")

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.check(len(frames))
        pixels = to_pixel_values(resized(frames, IMAGE_SIZE))
        return self._network(Tensor(pixels[None])).asnumpy()[0]


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """(T, H, W, 3) to (T, size, size, 3) float32, values in 0..255, bilinearly."""
    height, width = frames.shape[1:3]
    rows, columns = (
        resized_positions(length, size / length, 0, size) for length in (height, width)
    )
    return sample_bilinear(frames, rows, columns)
