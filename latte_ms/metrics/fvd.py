"""FVD of two folders of videos: clips by a protocol, features by a detector, their distance."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.metrics.detectors import Detector, I3DDetector
from latte_ms.metrics.protocols import ClipProtocol
from latte_ms.metrics.sets import clip_sets, features_of_sets, protocol_of
from latte_ms.metrics.video_distance import (
    STANDARD_CLIPS,
    VideoDistance,
    check_count,
    video_distance,
)
from latte_ms.runtime import Rank


@dataclass(frozen=True)
class FVD:
    """A distance, and all that has to agree where two are compared."""

    distance: VideoDistance
    protocol: ClipProtocol
    detector: dict[str, str]
    seed: int
    fingerprints: dict[str, str]  # of the clips of both sets

    def __str__(self) -> str:
        found, rule = self.distance, self.protocol.generated
        text = (
            f"FVD {found.value:.2f} (standard deviation {found.deviation:.2f}): "
            f"{found.num_generated} generated and {found.num_real} real clips of "
            f"{rule.num_frames} frames, {', '.join(self.detector.values())}"
        )
        if min(found.num_real, found.num_generated) < STANDARD_CLIPS:
            text += (
                f"\nWith fewer than {STANDARD_CLIPS} clips a distance is larger: about "
                f"{found.bias:.2f} of it is due to the number of clips; with {STANDARD_CLIPS} it "
                f"would be about {found.at_standard:.2f}."
            )
        return text

    def record(self) -> dict[str, Any]:
        """Plain values, to be written as JSON."""
        return dataclasses.asdict(self)


def fvd(
    real: str | Path,
    generated: str | Path,
    *,
    protocol: str | ClipProtocol = "latte",
    kind: str = "auto",
    detector: Detector | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    rank: Rank | None = None,
) -> FVD:
    """The Fréchet video distance (arXiv 1812.01717) of the videos under two folders.

    Args:
        real, generated: folders of video files or of folders of images.
        protocol: a name of `PROTOCOLS`, or one of your own.
        kind: videos or frames; auto: frames where a folder holds no video file.
        detector: the network; None: `I3DDetector()`.
        seed: of the videos and starts that are drawn.
        cache: folder where features are kept, so that nothing is decoded twice; None: in the user's
            cache. All ranks must see it.
        rank: of this process, where several share the work (`runtime.setup` returns it).
    Raises:
        ValueError: an unknown name, or too few or too short videos.
        FileNotFoundError: a folder, or the weights of the detector, are missing.
        DecodeError: a video cannot be read.
    """
    protocol = protocol_of(protocol)
    detector = detector or I3DDetector()
    sets = clip_sets(real, generated, protocol, kind, detector, seed)
    for name, clips in sets.items():
        check_count(name, len(clips))
    features = features_of_sets(sets, detector, cache, rank)
    distance = video_distance(features.real, features.generated, protocol.unbiased)
    return FVD(distance, protocol, dict(detector.identity), seed, features.fingerprints)
