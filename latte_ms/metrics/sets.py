"""The features of a real and of a generated set, by a protocol."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latte_ms.metrics.clips import Clips
from latte_ms.metrics.detectors import Detector
from latte_ms.metrics.features import collect
from latte_ms.metrics.packages import cache_folder
from latte_ms.metrics.protocols import PROTOCOLS, Protocol
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


def protocol_of(protocol: str | Protocol) -> Protocol:
    """A protocol by its name. Raises ValueError for an unknown one."""
    if not isinstance(protocol, str):
        return protocol
    one_of(*PROTOCOLS)("protocol", protocol)
    return PROTOCOLS[protocol]


def features_of_sets(
    real: str | Path,
    generated: str | Path,
    protocol: Protocol,
    kind: str,
    detector: Detector,
    seed: int,
    cache: str | Path | None,
    rank: Rank | None,
) -> FeatureSets:
    """Arguments and errors are those of `fvd`."""
    real_clips = Clips(real, kind, protocol.real, seed)
    generated_clips = Clips(generated, kind, protocol.generated, seed)
    sets = {"real": real_clips, "generated": generated_clips}
    for name, clips in sets.items():
        logger.info("%s: %d clips, %d videos are too short.", name, len(clips), clips.too_short)
    folder = cache_folder() / "features" if cache is None else Path(cache)
    communicator = Communicator(rank or Rank())
    return FeatureSets(
        collect(real_clips, detector, folder, communicator),
        collect(generated_clips, detector, folder, communicator),
        {name: clips.fingerprint() for name, clips in sets.items()},
    )
