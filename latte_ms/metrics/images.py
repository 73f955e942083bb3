"""FID, KID and IS of two folders of videos, whose frames are the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latte_ms.metrics.detectors import Detector, InceptionDetector
from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.image_scores import Score, inception_score, kernel_distance, softmax
from latte_ms.metrics.inception import NUM_FEATURES
from latte_ms.metrics.protocols import ClipProtocol
from latte_ms.metrics.sets import features_of_sets, protocol_of
from latte_ms.options import one_of
from latte_ms.runtime import Rank

IMAGE_METRICS = ("fid", "kid", "is")


@dataclass(frozen=True)
class ImageScores:
    """What was asked for, None else, and all that has to agree where two are compared."""

    fid: float | None
    kid: Score | None
    inception_score: Score | None  # of the generated set
    num_real: int  # images
    num_generated: int
    detector: dict[str, str]
    fingerprints: dict[str, str]  # of the clips of both sets

    def __str__(self) -> str:
        sizes = f"{self.num_generated} generated and {self.num_real} real images"
        lines = []
        if self.fid is not None:
            lines.append(f"FID {self.fid:.3f}: {sizes}, {', '.join(self.detector.values())}")
        if self.kid is not None:
            kid = self.kid
            lines.append(f"KID x 1000 {1000 * kid.mean:.3f} +- {1000 * kid.deviation:.3f}: {sizes}")
        if self.inception_score is not None:
            score = self.inception_score
            lines.append(
                f"IS {score.mean:.3f} +- {score.deviation:.3f}: {self.num_generated} images"
            )
        return "\n".join(lines)


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
    sets = features_of_sets(real, generated, protocol, kind, detector, seed, cache, rank)
    first, second = sets.real, sets.generated
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
        dict(detector.identity),
        sets.fingerprints,
    )
