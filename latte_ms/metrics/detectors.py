"""Networks whose features are compared, with what turns frames into their input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from mindspore import Tensor

from latte_ms.data.transforms import resized_positions, sample_bilinear, to_pixel_values
from latte_ms.metrics import c3d, i3d, inception
from latte_ms.metrics.c3d import C3D
from latte_ms.metrics.i3d import I3D, MIN_FRAMES, NUM_CLASSES
from latte_ms.metrics.loading import load_network
from latte_ms.options import one_of

InceptionResize = Literal["tf1", "half_pixel"]


class Detector(Protocol):
    """What features are computed by."""

    num_features: int
    identity: Mapping[str, str]  # what a figure has to name: the network and its weights

    def vectors_per_clip(self, num_frames: int) -> int:
        """Vectors R of a clip. Raises ValueError for clips that it cannot look at."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features (R, D) float32 of a clip (T, H, W, 3) uint8."""
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
        self._network, identity = load_network(I3D, "I3D", "i3d", path)
        i3d.prepare(self._network)
        self.identity: Mapping[str, str] = identity

    def vectors_per_clip(self, num_frames: int) -> int:
        if num_frames < MIN_FRAMES:
            raise ValueError(f"`num_frames` must be at least {MIN_FRAMES}, got {num_frames}.")
        return 1

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self.logits(to_pixel_values(resized(frames, i3d.IMAGE_SIZE)))

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Features (1, 400) float32 of pixels (T, 3, 224, 224) float32, usually in [-1, 1]."""
        self.vectors_per_clip(len(pixels))
        return self._network(Tensor(pixels[None])).asnumpy()


class InceptionDetector:
    """Features of Inception v3 of each frame, and its logits without bias: 2048 and 1008 numbers.

    Args:
        path: file of the weights; None for those that `fetch_detectors.py` has put into the user's
            cache.
        resize: how frames become 299 x 299 pixels. tf1: as the network of 2015 did it itself, and
            as StyleGAN's and torch-fidelity's figures have it: bilinear, corners at corners of the
            first pixel, (x - 128) / 128. half_pixel: as pytorch-fid: bilinear, centres at centres,
            x / 127.5 - 1. Neither is antialiased.
    Raises:
        ValueError: an unknown `resize`.
        FileNotFoundError: there is no such file.
        WeightError: it does not hold the network.
    """

    num_features = inception.NUM_FEATURES + inception.NUM_CLASSES

    def __init__(self, path: str | Path | None = None, resize: InceptionResize = "tf1") -> None:
        one_of(*get_args(InceptionResize))("resize", resize)
        build, title = inception.Inception, "Inception v3"
        self._network, identity = load_network(build, title, "inception", path)
        self._resize = resize
        self.identity: Mapping[str, str] = identity | {"resize": resize}

    def vectors_per_clip(self, num_frames: int) -> int:
        return num_frames

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        size = inception.IMAGE_SIZE
        if self._resize == "half_pixel":
            pixels = to_pixel_values(resized(frames, size))
        else:
            rows, columns = (np.arange(size) * (n / size) for n in frames.shape[1:3])
            sampled = sample_bilinear(frames, rows, columns).transpose(0, 3, 1, 2)
            pixels = np.ascontiguousarray((sampled - 128.0) / 128.0)
        return np.concatenate([part.asnumpy() for part in self._network(Tensor(pixels))], 1)


class C3DDetector:
    """The 101 logits of C3D: frames are resized to 112 x 112 bilinearly, corners at corners.

    Args:
        path: file of the weights; None for those that `fetch_detectors.py` has put into the user's
            cache.
    Raises:
        FileNotFoundError: there is no such file.
        WeightError: it does not hold the network.
    """

    num_features = c3d.NUM_CLASSES

    def __init__(self, path: str | Path | None = None) -> None:
        self._network, identity = load_network(C3D, "C3D", "c3d", path)
        i3d.prepare(self._network)
        self.identity: Mapping[str, str] = identity

    def vectors_per_clip(self, num_frames: int) -> int:
        if num_frames != c3d.NUM_FRAMES:
            raise ValueError(f"`num_frames` must be {c3d.NUM_FRAMES} for C3D, got {num_frames}.")
        return 1

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.vectors_per_clip(len(frames))
        pixels = c3d_pixels(frames, c3d.IMAGE_SIZE)
        return self._network(Tensor(pixels[None])).asnumpy()


def c3d_pixels(frames: np.ndarray, size: int) -> np.ndarray:
    """(T, H, W, 3) to (T, 3, size, size) float32 in 0..255; corner pixels stay in the corners."""
    rows, columns = (np.linspace(0, length - 1, size) for length in frames.shape[1:3])
    sampled = sample_bilinear(frames, rows, columns).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(sampled)


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """(T, H, W, 3) to (T, size, size, 3) float32, values in 0..255, bilinearly."""
    height, width = frames.shape[1:3]
    rows, columns = (
        resized_positions(length, size / length, 0, size) for length in (height, width)
    )
    return sample_bilinear(frames, rows, columns)
