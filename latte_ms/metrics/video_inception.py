"""The inception score of videos by C3D, as TGAN introduced it (arXiv 1611.06624)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.metrics.clips import ClipRule
from latte_ms.metrics.detectors import C3DDetector, Detector
from latte_ms.metrics.image_scores import NUM_SPLITS, Score, inception_score, softmax
from latte_ms.metrics.protocols import ClipProtocol
from latte_ms.metrics.sets import clips_of, kept_features, protocol_of
from latte_ms.runtime import Rank


@dataclass(frozen=True)
class VideoInceptionScore:
    """A score of the generated set, and all that has to agree where two are compared."""

    score: Score  # over 10 splits
    num_clips: int
    rule: ClipRule
    detector: dict[str, str]
    seed: int
    fingerprint: str  # of the clips

    def __str__(self) -> str:
        return (
            f"Video IS {self.score.mean:.3f} +- {self.score.deviation:.3f}: {self.num_clips} "
            f"generated clips in {NUM_SPLITS} splits, {', '.join(self.detector.values())}"
        )

    def record(self) -> dict[str, Any]:
        """Plain values, to be written as JSON."""
        return dataclasses.asdict(self)


def video_inception_score(
    generated: str | Path,
    *,
    protocol: str | ClipProtocol = "latte",
    kind: str = "auto",
    detector: Detector | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    rank: Rank | None = None,
) -> VideoInceptionScore:
    """The inception score of the classes that C3D sees in the clips, over 10 splits of the set.

    exp of the mean KL divergence of a clip's class probabilities from their average over its split.

    Args:
        detector: gives the logits of the classes; None: `C3DDetector()`.
        others: as of `fvd`; the clips are the generated ones of the protocol.
    Raises:
        ValueError: fewer than 10 clips, or other than 16 frames in one.
        others: those of `fvd`.
    """
    rule = protocol_of(protocol).generated
    detector = detector or C3DDetector()
    detector.vectors_per_clip(rule.num_frames)
    clips = clips_of("generated", generated, kind, rule, seed)
    if len(clips) < NUM_SPLITS:
        raise ValueError(
            f"`generated` (={generated}) must hold at least {NUM_SPLITS} videos for the video "
            f"inception score, got {len(clips)}."
        )
    logits = kept_features(clips, detector, cache, rank)
    score, identity = inception_score(softmax(logits), NUM_SPLITS), dict(detector.identity)
    return VideoInceptionScore(score, len(clips), rule, identity, seed, clips.fingerprint())
