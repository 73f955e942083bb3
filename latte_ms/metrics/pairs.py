"""Distances of two videos, frame by frame: PSNR, SSIM and LPIPS, as comparisons of runs use them.

Each takes videos (F, H, W, 3) uint8 of one shape and gives the mean over their frames.
"""

from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
from mindspore import Tensor

from latte_ms.data.transforms import to_pixel_values
from latte_ms.extras import needs
from latte_ms.metrics.loading import load_network
from latte_ms.metrics.lpips import LEAST_SIZE, LPIPS, Backbone
from latte_ms.options import one_of

_SSIM_SIGMA, _SSIM_WINDOW = 1.5, 11  # Wang et al. 2004


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; infinite where a frame is the same in both.

    Raises ValueError for arrays that are no videos of one shape.
    """
    _check(first, second)
    errors = ((first.astype(np.float64) - second) ** 2).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return float((10.0 * np.log10(255.0**2 / errors)).mean())


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 x 11, deviation 1.5.

    Raises ValueError for arrays that are no videos of one shape, or smaller than the window, and
    MissingExtraError without scikit-image.
    """
    _check(first, second)
    if min(first.shape[1:3]) < _SSIM_WINDOW:
        raise ValueError(f"`first` must be at least 11 x 11 pixels, got {first.shape}.")
    measure = _skimage().structural_similarity
    values = [
        measure(
            one,
            other,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=_SSIM_SIGMA,
            use_sample_covariance=False,
        )
        for one, other in zip(first, second, strict=True)
    ]
    return float(np.mean(values))


class PerceptualDistance:
    """LPIPS of videos.

    Args:
        backbone: alexnet, or vgg16.
        path: file of the weights; None for those that `fetch_detectors.py` has put into the user's
            cache.
    Raises:
        ValueError: an unknown backbone.
        FileNotFoundError: there is no such file.
        WeightError: it does not hold the network.
    """

    def __init__(self, backbone: Backbone = "alexnet", path: str | Path | None = None) -> None:
        one_of(*get_args(Backbone))("backbone", backbone)
        self._least = LEAST_SIZE[backbone]
        self._network, self.identity = load_network(
            lambda: LPIPS(backbone), f"LPIPS {backbone}", f"lpips_{backbone}", path
        )

    def __call__(self, first: np.ndarray, second: np.ndarray) -> float:
        """Raises ValueError for arrays that are no videos of one shape, or too small."""
        _check(first, second)
        if min(first.shape[1:3]) < self._least:
            raise ValueError(
                f"`first` must be at least {self._least} x {self._least} pixels, got {first.shape}."
            )
        pixels = [to_pixel_values(video) for video in (first, second)]
        # Frame by frame: a whole video would need gigabytes, and each length a graph of its own.
        values = [
            float(self._network(Tensor(one[None]), Tensor(other[None])).asnumpy()[0])
            for one, other in zip(*pixels, strict=True)
        ]
        return float(np.mean(values))


def _check(first: np.ndarray, second: np.ndarray) -> None:
    for name, video in (("first", first), ("second", second)):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
            raise ValueError(
                f"`{name}` must be (F, H, W, 3) uint8, got {video.shape} {video.dtype}."
            )
    if first.shape != second.shape:
        raise ValueError(f"`second` must have the shape {first.shape}, got {second.shape}.")


def _skimage() -> ModuleType:
    with needs("metrics", "SSIM"):
        from skimage import metrics
    return metrics
