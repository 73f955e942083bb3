"""Make io.npz: pictures resized and cropped by torch, as upstream's transforms do.

python tests/reference/resize/make_resize.py   (needs torch)
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

CASES = ((30, 40, 16), (41, 23, 16), (19, 27, 32), (50, 33, 24), (64, 64, 24), (17, 90, 20))


def resize(pixels: torch.Tensor, **size: object) -> torch.Tensor:
    return interpolate(pixels, mode="bilinear", align_corners=False, **size)


def centre(pixels: torch.Tensor, size: int) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[..., top : top + size, left : left + size]


def main() -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for i, (height, width, size) in enumerate(CASES):
        frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        short = min(height, width)
        outputs = {
            "resize_crop": centre(resize(pixels, scale_factor=size / short), size),
            "crop_resize": resize(centre(pixels, short), size=(size, size)),
        }
        arrays[f"{i}_frames"] = frames
        for name, output in outputs.items():
            arrays[f"{i}_{name}"] = ((output - 0.5) / 0.5).numpy()
    np.savez_compressed(Path(__file__).parent / "io.npz", **arrays)


if __name__ == "__main__":
    main()
