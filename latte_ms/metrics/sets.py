"""The features of a real and of a generated set, by a protocol."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latte_ms.metrics.clips import ClipRule, Clips
from latte_ms.metrics.detectors import Detector
from latte_ms.metrics.features import collect
from latte_ms.metrics.packages import cache_folder
from latte_ms.metrics.protocols import PROTOCOLS, ClipProtocol
from latte_ms.options import one_of
from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import Rank

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureSets:
    """Features (N, D) of both sets, and the fingerprints of their clips."""

    real: np.ndarray
    generated: np.ndarray
    fingerprints: dict[str, str]


def protocol_of(protocol: str | ClipProtocol) -> ClipProtocol:
    """A protocol by its name. Raises ValueError for an unknown one."""
    if not isinstance(protocol, str):
        return protocol
    one_of(*PROTOCOLS)("protocol", protocol)
    return PROTOCOLS[protocol]


def clip_sets(
    real: str | Path,
    generated: str | Path,
    protocol: ClipProtocol,
    kind: str,
    detector: Detector,
    seed: int,
) -> dict[str, Clips]:
    """The clips of both sets, by name; arguments and errors are those of `fvd`."""
    for rule in (protocol.real, protocol.generated):
        detector.vectors_per_clip(rule.num_frames)
    return {
        "real": clips_of("real", real, kind, protocol.real, seed),
        "generated": clips_of("generated", generated, kind, protocol.generated, seed),
    }


def features_of_sets(
    sets: Mapping[str, Clips], detector: Detector, cache: str | Path | None, rank: Rank | None
) -> FeatureSets:
    """The features of what `clip_sets` returns; arguments and errors are those of `fvd`."""
    return FeatureSets(
        kept_features(sets["real"], detector, cache, rank),
        kept_features(sets["generated"], detector, cache, rank),
        {name: clips.fingerprint() for name, clips in sets.items()},
    )


def clips_of(name: str, root: str | Path, kind: str, rule: ClipRule, seed: int) -> Clips:
    """The clips of the set `name`; see `Clips` for the other arguments and the errors."""
    clips = Clips(root, kind, rule, seed, name)
    logger.info("%s: %d clips, %d videos are too short.", name, len(clips), clips.too_short)
    return clips


def kept_features(
    clips: Clips, detector: Detector, cache: str | Path | None, rank: Rank | None
) -> np.ndarray:
    """`collect` in the folder `cache`, or in the user's; arguments are those of `fvd`."""
    folder = cache_folder() / "features" if cache is None else Path(cache)
    return collect(clips, detector, folder, Communicator(rank or Rank()))
