"""The workload of `tools/benchmark.py` on I3D: `--batch` clips of 16 frames to their features.

Frames of --size x --size pixels are resized and go through the network, with the weights that
`scripts/fetch_detectors.py i3d` has kept. Each side computes in its own framework only.
"""

import argparse
from collections.abc import Callable

import numpy as np

FRAMES = 16
SEED = 0


def inputs(options: argparse.Namespace) -> np.ndarray:
    """Frames (N, T, H, W, 3) uint8."""
    shape = (options.batch, FRAMES, options.size, options.size, 3)
    return np.random.default_rng(SEED).integers(0, 256, shape, np.uint8)


def ours(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """The detector that FVD uses: one clip at a time."""
    from latte_ms import runtime
    from latte_ms.metrics.detectors import I3DDetector

    runtime.setup(runtime.RuntimeConfig(options.device, options.precision, jit_level="O0"))
    detector = I3DDetector()
    clips = inputs(options)

    def run() -> None:
        for clip in clips:
            detector(clip)

    return run


def torch_side(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """3-D convolutions on the whole batch, batch normalisation folded into them as here."""
    import torch
    from safetensors.numpy import load_file
    from torch.nn import functional

    from latte_ms.metrics.packages import fetched
    from tools import reference_i3d

    weights = load_file(fetched("i3d"))
    clips = torch.from_numpy(inputs(options))

    def run() -> None:
        frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()
        resized = functional.interpolate(frames, (224, 224), mode="bilinear", align_corners=False)
        videos = (resized / 127.5 - 1.0).unflatten(0, clips.shape[:2])
        reference_i3d.logits(videos.numpy(), weights)

    return run
