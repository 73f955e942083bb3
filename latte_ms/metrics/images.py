"""FID, KID and IS of two folders of videos, whose frames are the images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.metrics.detectors import Detector, InceptionDetector
from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.image_scores import (
    NUM_SPLITS,
    Score,
    inception_score,
    kernel_distance,
    softmax,
)
from latte_ms.metrics.inception import NUM_FEATURES
from latte_ms.metrics.protocols import ClipProtocol
from latte_ms.metrics.sets import clip_sets, features_of_sets, protocol_of
from latte_ms.options import one_of
from latte_ms.runtime import Rank

IMAGE_METRICS = ("fid", "kid", "is")
# Images of each set that a metric needs: a covariance, pairs, an image for each split.
_LEAST = {
    "fid": {"real": 2, "generated": 2},
    "kid": {"real": 2, "generated": 2},
    "is": {"real": 1, "generated": NUM_SPLITS},
}


@dataclass(frozen=True)
class ImageScores:
    """What was asked for, None else, and all that has to agree where two are compared."""

    fid: float | None
    kid: Score | None
    inception_score: Score | None  # of the generated set
    num_real: int  # images
    num_generated: int
    protocol: ClipProtocol
    detector: dict[str, str]
    seed: int
    fingerprints: dict[str, str]  # of the clips of both sets

    def __str__(self) -> str:
        sizes = f"{self.num_generated} generated and {self.num_real} real images"
        names = ", ".join(self.detector.values())
        lines = []
        if self.fid is not None:
            lines.append(f"FID {self.fid:.3f}: {sizes}, {names}")
        if self.kid is not None:
            kid = self.kid
            figures = f"{1000 * kid.mean:.3f} +- {1000 * kid.deviation:.3f}"
            lines.append(f"KID x 1000 {figures}: {sizes}, {names}")
        if self.inception_score is not None:
            score = self.inception_score
            lines.append(
                f"IS {score.mean:.3f} +- {score.deviation:.3f}: {self.num_generated} generated "
                f"images, {names}"
            )
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """Plain values, to be written as JSON."""
        return dataclasses.asdict(self)


def image_scores(
    real: str | Path,
    generated: str | Path,
    metrics: Sequence[str] = IMAGE_METRICS,
    *,
    protocol: str | ClipProtocol = "latte",
    kind: str = "auto",
    detector: Detector | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    rank: Rank | None = None,
) -> ImageScores:
    """The Fréchet (arXiv 1706.08500) and kernel distance and the inception score of images.

    Args:
        metrics: of fid, kid and is.
        detector: the network; None: `InceptionDetector()`.
        others: as of `fvd`; the images are the frames of the clips that the protocol takes.
    Raises:
        Those of `fvd`.
    """
    for name in metrics:
        one_of(*IMAGE_METRICS)("metrics", name)
    protocol = protocol_of(protocol)
    detector = detector or InceptionDetector()
    sets = clip_sets(real, generated, protocol, kind, detector, seed)
    for name, clips in sets.items():
        count = len(clips) * detector.vectors_per_clip(clips.rule.num_frames)
        _check_count(name, count, metrics)
    features = features_of_sets(sets, detector, cache, rank)
    first, second = features.real, features.generated
    x, y = first[:, :NUM_FEATURES], second[:, :NUM_FEATURES]
    fid = None
    if "fid" in metrics:
        gaussians = [Gaussian.of(rows, protocol.unbiased) for rows in (x, y)]
        fid = frechet_distance(gaussians[0], gaussians[1])
    return ImageScores(
        fid,
        kernel_distance(x, y, seed=seed) if "kid" in metrics else None,
        inception_score(softmax(second[:, NUM_FEATURES:])) if "is" in metrics else None,
        len(first),
        len(second),
        protocol,
        dict(detector.identity),
        seed,
        features.fingerprints,
    )


def _check_count(name: str, count: int, metrics: Sequence[str]) -> None:
    """Raise ValueError for fewer images in the set `name` than one of the metrics needs."""
    for metric in metrics:
        least = _LEAST[metric][name]
        if count < least:
            raise ValueError(
                f"`{name}` must have at least {least} images for {metric}, got {count}."
            )
