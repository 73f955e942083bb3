"""The features of a set of clips: computed once, kept, and shared out among the ranks."""

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.metrics.clips import Clips
from latte_ms.metrics.detectors import Detector
from latte_ms.parallel.communicator import Communicator
from latte_ms.progress import progress

logger = logging.getLogger(__name__)

PART = 16  # clips: what an interruption loses at most


def collect(
    clips: Clips, detector: Detector, folder: Path, communicator: Communicator
) -> np.ndarray:
    """The features of all clips, (N * R, D) float32, in their order: R rows of each.

    Every rank computes some parts of 16 clips and keeps each in `folder`, which all of them see;
    parts that are there, of an interrupted run or of another number of ranks, are not computed
    again. When all are there the first rank joins them to one file, which later runs read without
    decoding a video.

    Raises ValueError where clips are too short for the detector, DecodeError where one cannot be
    read.
    """
    per_clip = detector.vectors_per_clip(clips.rule.num_frames)
    key = _key(clips, detector)
    whole, parts = folder / f"{key}.npy", folder / f"{key}_parts"
    shape = (len(clips) * per_clip, detector.num_features)
    if not communicator.broadcast_from_first(int(_read(whole, shape) is not None)):
        rank, starts = communicator.rank, range(0, len(clips), PART)
        _compute(clips, detector, parts, list(starts)[rank.index :: rank.count])
        communicator.wait()
        if rank.is_first:
            _write(whole, np.concatenate([np.load(_part(parts, start)) for start in starts]))
            shutil.rmtree(parts)
        communicator.wait()
    features = _read(whole, shape)
    if features is None:
        raise FileNotFoundError(f"{whole} must be on a disk that all ranks see.")
    return features


def _compute(clips: Clips, detector: Detector, folder: Path, starts: list[int]) -> None:
    """Parts that begin with these clips, unless they are there; the next clip is read meanwhile."""
    per_clip = detector.vectors_per_clip(clips.rule.num_frames)

    def shape(start: int) -> tuple[int, int]:
        return (ends[start] - start) * per_clip, detector.num_features

    ends = {start: min(start + PART, len(clips)) for start in starts}
    missing = [start for start in starts if _read(_part(folder, start), shape(start)) is None]
    numbers = [number for start in missing for number in range(start, ends[start])]
    if len(missing) < len(starts):
        logger.info("%d of %d parts are there already.", len(starts) - len(missing), len(starts))
    with (
        ThreadPoolExecutor(1) as reader,
        progress(total=len(numbers), unit="clip", desc="features") as bar,
    ):
        ahead = _ahead(reader, clips, numbers)
        for start in missing:
            rows = np.empty(shape(start), np.float32)
            for first in range(0, len(rows), per_clip):
                rows[first : first + per_clip] = detector(next(ahead))
                bar.update()
            _write(_part(folder, start), rows)


def _ahead(reader: ThreadPoolExecutor, clips: Clips, numbers: list[int]) -> Iterator[np.ndarray]:
    """Frames of the clips; one clip is read while the one before it is looked at."""
    waiting: deque[Future[np.ndarray]] = deque()
    for number in numbers:
        waiting.append(reader.submit(clips.read, number))
        if len(waiting) == 2:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _key(clips: Clips, detector: Detector) -> str:
    record = [sorted(detector.identity.items()), clips.fingerprint()]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:32]


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:08d}.npy"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The array of a file; None where it is not there or not what it should be."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = features.shape == shape and features.dtype == np.float32
    return features if whole and np.isfinite(features).all() else None


def _write(path: Path, features: np.ndarray) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, features, allow_pickle=False)
