"""The configuration of class-to-video sampling: what a YAML recipe may say."""

import math
from dataclasses import dataclass, field

import numpy as np
from omegaconf import MISSING

from latte_ms.generation.class_to_video import SamplerConfig
from latte_ms.generation.output import check_formats
from latte_ms.runtime import RuntimeConfig, check_precision
from latte_ms.transformer.configuration import LatteConfig, with_preset


@dataclass(frozen=True)
class SampleConfig:
    """Everything `scripts/sample.py` reads.

    Raises ValueError where a value or a combination is wrong.
    """

    weights: str = MISSING  # checkpoint file, or a training checkpoint's folder
    vae: str = MISSING  # folder of the autoencoder in diffusers' layout
    output: str = MISSING  # folder for the videos
    entry: str = "ema"  # or model
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    vae_precision: str = "float32"
    vae_frames: int = 8  # frames decoded at a time
    preset: str = ""  # a name such as Latte-XL/2: the sizes that `network` leaves out
    network: LatteConfig = field(default_factory=LatteConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    classes: list[int] = field(default_factory=list)  # labels to sample; empty: drawn from the seed
    num_videos: int = 0  # in all; 0: one per entry of `classes`, or one batch without any
    batch_size: int = 1  # videos denoised together; changes no result
    seed: int = 0  # video number i has seed + i
    fps: float = 8.0
    formats: list[str] = field(default_factory=lambda: ["mp4"])  # mp4, gif
    contact_sheet: bool = True  # one PNG with frames of the first 32 videos

    fill = staticmethod(with_preset)

    def __post_init__(self) -> None:
        check_precision(self.vae_precision, self.runtime.device, "vae_precision")
        check_formats(self.formats)
        if self.entry not in ("ema", "model"):
            raise ValueError(f"`entry` must be ema or model, got {self.entry!r}.")
        if self.num_videos < 0 or self.seed < 0:
            raise ValueError("`num_videos` and `seed` must not be negative.")
        if 0 < self.num_videos < len(self.classes):
            raise ValueError(
                f"`num_videos` (={self.num_videos}) must be at least the number of `classes` "
                f"(={len(self.classes)}), or 0 for one video of each."
            )
        for name in ("batch_size", "vae_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"`fps` must be above 0 and finite, got {self.fps}.")
        self.sampler.check_network(self.network)
        if self.classes and self.network.conditioning != "class":
            raise ValueError(f"`classes` (={self.classes}) needs `network.conditioning` class.")
        bad = [label for label in self.classes if not 0 <= label < self.network.num_classes]
        if bad:
            raise ValueError(f"`classes` must be in [0, {self.network.num_classes}), got {bad[0]}.")

    @property
    def count(self) -> int:
        """Videos of the whole run."""
        return self.num_videos or len(self.classes) or self.batch_size

    @property
    def seeds(self) -> list[int]:
        """One per video."""
        return [self.seed + number for number in range(self.count)]

    @property
    def labels(self) -> list[int] | None:
        """One per video: `classes` over and over, or drawn from each video's seed."""
        if self.network.conditioning == "none":
            return None
        if self.classes:
            return [self.classes[i % len(self.classes)] for i in range(self.count)]
        number = self.network.num_classes
        return [int(np.random.default_rng((seed, 2)).integers(number)) for seed in self.seeds]
