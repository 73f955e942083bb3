"""Frames to CLIP's input, as transformers' `CLIPImageProcessor` makes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latte_ms.config import read_json
from latte_ms.messages import shown
from latte_ms.options import Rule, check_each, integers, items, numbers

FILE = "preprocessor_config.json"
# Steps that the file may switch off, and what else would change the result.
_FIXED: dict[str, Any] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True),
    "resample": Image.Resampling.BICUBIC.value,
}
_RULES: dict[str, Rule] = {
    "size": integers(1, 4096),
    "crop": integers(1, 4096),
    "mean": items(numbers(-10, 10), 3, 3),
    "deviation": items(numbers(1e-6, 10), 3, 3),
}


@dataclass(frozen=True)
class ImagePreparation:
    """The short side to `size` by antialiased bicubic filtering, the centre, then (x - m) / s.

    Raises ValueError for a value out of range.
    """

    size: int = 224  # pixels of the short side
    crop: int = 224  # pixels of a side
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # of values in [0, 1]
    deviation: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        check_each(self, _RULES)
        if self.crop > self.size:
            raise ValueError(f"`crop` (={self.crop}) must be at most `size` (={self.size}).")

    @classmethod
    def from_folder(cls, folder: str | Path, image_size: int) -> "ImagePreparation":
        """Of preprocessor_config.json, or where there is none, CLIP's own for `image_size`.

        Raises ValueError for a file that asks for other steps, or for images of another size.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return cls(image_size, image_size)
        values = read_json(path)
        try:
            for name, value in _FIXED.items():
                if values.get(name, value) != value:
                    raise ValueError(f"`{name}` must be {value}, got {shown(values[name])}.")
            if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
                raise ValueError(
                    f"`rescale_factor` must be 1 / 255, got {shown(values['rescale_factor'])}."
                )
            found = cls(
                _side(values, "size", "shortest_edge"),
                _side(values, "crop_size", "height"),
                tuple(values.get("image_mean", cls.mean)),
                tuple(values.get("image_std", cls.deviation)),
            )
            if found.crop != image_size:
                raise ValueError(
                    f"`crop_size` must be {image_size} as the network's `image_size`, "
                    f"got {found.crop}."
                )
            return found
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 to (T, 3, crop, crop) float32."""
        height, width = frames.shape[1:3]
        short = min(height, width)
        rows, columns = (
            self.size if length == short else self.size * length // short
            for length in (height, width)
        )
        top, left = (rows - self.crop) // 2, (columns - self.crop) // 2
        box = (left, top, left + self.crop, top + self.crop)
        images = [
            Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC).crop(box)
            for frame in frames
        ]
        pixels = np.stack([np.asarray(image) for image in images]).astype(np.float32) / 255.0
        mean, deviation = (np.asarray(v, np.float32) for v in (self.mean, self.deviation))
        return np.ascontiguousarray(((pixels - mean) / deviation).transpose(0, 3, 1, 2))


def _side(values: dict[str, Any], name: str, key: str) -> Any:
    """A length in pixels: a number, or the field `key` of an object."""
    value = values.get(name, 224)
    if isinstance(value, dict):
        if len(set(value.values())) != 1 or key not in value:
            raise ValueError(
                f"`{name}` must be a number, or an object with `{key}` and equal sides, "
                f"got {shown(value)}."
            )
        return value[key]
    return value
