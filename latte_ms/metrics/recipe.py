"""The recipe of `scripts/calc_metrics.py`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from latte_ms.metrics.clips import ClipRule
from latte_ms.metrics.images import IMAGE_METRICS
from latte_ms.metrics.protocols import PROTOCOLS, ClipProtocol
from latte_ms.options import MANY, Rule, check_each, integers, items, one_of, optional, seed, text
from latte_ms.runtime import RuntimeConfig

FVD, VIDEO_IS, CLIP_SCORE = "fvd", "video_is", "clip_score"
PAIRED = ("psnr", "ssim", "lpips_alexnet", "lpips_vgg16")
METRICS = (FVD, VIDEO_IS, CLIP_SCORE, *IMAGE_METRICS, *PAIRED)
WITHOUT_REAL = (VIDEO_IS, CLIP_SCORE)  # of the generated videos alone
_RULES: dict[str, Rule] = {
    "generated": text,
    **dict.fromkeys(
        ("real", "detector", "clip_model", "captions", "cache", "output"), optional(text)
    ),
    "metrics": items(one_of(*METRICS), 1, len(METRICS)),
    "protocol": one_of(*PROTOCOLS),
    "kind": one_of("auto", "videos", "frames"),
    **dict.fromkeys(("num_frames", "frame_interval"), optional(integers(1, 1024))),
    "num_clips": optional(integers(0, MANY)),
    "image_size": optional(integers(0, 4096)),
    "seed": seed,
}


@dataclass(frozen=True)
class MetricsRecipe:
    """What is compared, and how. Raises ValueError for a value that is not allowed."""

    # Folder of the real videos, or of those to compare with, by their names; video_is and
    # clip_score do without
    real: str | None = None
    generated: str = MISSING
    # Of fvd, video_is; clip_score (of videos and prompts); fid, kid, is (of frames); psnr, ssim,
    # lpips_alexnet, lpips_vgg16 (of videos of the same names)
    metrics: tuple[str, ...] = ("fvd",)
    protocol: str = "latte"  # latte, stylegan_v or cd_fvd: which clips
    kind: str = "auto"  # videos, frames, or auto: frames where there is no video file
    # These replace what the protocol says:
    num_frames: int | None = None
    frame_interval: int | None = None  # of the real set
    num_clips: int | None = None  # of both sets; 0: one of each video
    image_size: int | None = None
    detector: str | None = None  # file of I3D's weights; none: those that fetch_detectors.py got
    clip_model: str | None = None  # folder of CLIP, as transformers saves it, for clip_score
    captions: str | None = None  # CSV or JSONL of the prompts of clip_score; none: files' names
    seed: int = 0  # of the videos and starts that are drawn
    cache: str | None = None  # folder where features are kept; none: in the user's cache
    output: str | None = None  # JSON file for the figures and all that they depend on
    runtime: RuntimeConfig = field(default_factory=lambda: RuntimeConfig(jit_level="O0"))

    def __post_init__(self) -> None:
        check_each(self, _RULES)
        if self.needs_real:
            self.needed("real")
        if CLIP_SCORE in self.metrics:
            self.needed("clip_model")

    @property
    def needs_real(self) -> bool:
        """Whether one of the metrics compares with `real`."""
        return any(name not in WITHOUT_REAL for name in self.metrics)

    def needed(self, name: str) -> str:
        """The folder `real` or `clip_model`. Raises ValueError where there is none."""
        folder: str | None = {"real": self.real, "clip_model": self.clip_model}[name]
        if folder is None:
            metrics = ", ".join(self.metrics)
            raise ValueError(f"`{name}` must be a folder for the metrics {metrics}, got none.")
        return folder

    def chosen_protocol(self) -> ClipProtocol:
        """The protocol with what replaces it."""
        protocol = PROTOCOLS[self.protocol]
        shared = {
            "num_frames": self.num_frames,
            "max_videos": self.num_clips,
            "image_size": self.image_size,
        }
        real = _replaced(protocol.real, interval=self.frame_interval, **shared)
        if self.num_frames is not None or self.frame_interval is not None:
            real = dataclasses.replace(
                real, min_frames=real.num_frames * real.interval if protocol.real.min_frames else 0
            )
        return dataclasses.replace(
            protocol, real=real, generated=_replaced(protocol.generated, **shared)
        )


def _replaced(rule: ClipRule, **values: int | None) -> ClipRule:
    stated: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(rule, **stated)
