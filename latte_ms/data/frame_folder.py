"""Videos stored as folders of images, one file per frame."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from latte_ms.data.video_file import DecodeError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that counts as a frame; hidden files do not."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """The images directly in `folder` in natural order, without hidden files."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DecodeError(f"{folder}: cannot be listed ({error}).") from error
    files = [folder / name for name in names if is_image(name)]
    return sorted(files, key=lambda path: (natural_key(path.stem), path.name))


def read_images(paths: Sequence[Path], indices: Iterable[int]) -> np.ndarray:
    """The images `indices` of `paths`, (F, H, W, 3) uint8, converted to RGB.

    Raises DecodeError for an image that cannot be read or has another size than the first.
    """
    frames: list[np.ndarray] = []
    for index in indices:
        path = paths[int(index)]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DecodeError(f"{path}: cannot be read as an image ({error}).") from error
        if frames and pixels.shape != frames[0].shape:
            raise DecodeError(
                f"{path}: is {pixels.shape[1]}x{pixels.shape[0]}, but another frame of its folder "
                f"is {frames[0].shape[1]}x{frames[0].shape[0]}."
            )
        frames.append(pixels)
    return np.stack(frames)
