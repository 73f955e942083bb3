"""Decoded frames in the form that the user asked for.

Shapes: B videos, F frames, H W pixels.
"""

from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor
from PIL import Image

from latte_ms.media import to_uint8, to_unit


class LattePipelineOutput(NamedTuple):
    """What a pipeline returns: `.frames[0]`, `[0][0]` and `["frames"][0]` are the first video.

    Attributes:
        frames: "pil" a list of B lists of F images, "np" (B, F, H, W, 3) float32 in 0..1, "ms" and
            its alias "pt" a Tensor (B, F, 3, H, W) in 0..1, "latent" a Tensor (B, C, F, h, w).
    """

    frames: Any

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else tuple(self)[key]

    def keys(self) -> tuple[str, ...]:
        """Names of the fields."""
        return self._fields

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields without names."""
        return tuple(self)


def to_output(pixels: np.ndarray, output_type: str) -> Any:
    """Pixels (B, F, 3, H, W) about [-1, 1] as `output_type`, any but "latent"."""
    frames = to_unit(pixels)
    if output_type in ("ms", "pt"):
        return Tensor(frames)
    frames = frames.transpose(0, 1, 3, 4, 2)  # (B, F, H, W, 3)
    if output_type == "np":
        return np.ascontiguousarray(frames)
    return [[Image.fromarray(frame) for frame in video] for video in to_uint8(frames)]
