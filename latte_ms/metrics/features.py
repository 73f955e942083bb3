"""The features of a set of clips: computed once, kept, and shared out among the ranks."""

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.metrics.array_files import DAMAGE
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
    decoding a video. Several runs may share `folder`: none waits for another.

    Raises ValueError where clips are too short for the detector, or features are not finite,
    DecodeError where a clip cannot be read.
    """
    per_clip = detector.vectors_per_clip(clips.rule.num_frames)
    key = _key(clips, detector)
    whole, parts = folder / f"{key}.npy", folder / f"{key}_parts"
    shape = (len(clips) * per_clip, detector.num_features)
    rank, starts = communicator.rank, range(0, len(clips), PART)

    def joined() -> bool:
        return _read(whole, shape) is not None

    if not communicator.broadcast_from_first(int(joined())):
        _compute(clips, detector, parts, list(starts)[rank.index :: rank.count], joined)
        communicator.wait()
    if rank.is_first:
        if not joined():
            _join(whole, [_part(parts, start) for start in starts], joined)
        shutil.rmtree(parts, ignore_errors=True)  # another run may be writing to it
    communicator.wait()
    features = _read(whole, shape)
    if features is None:
        raise FileNotFoundError(f"{whole} must be on a disk that all ranks see.")
    return features


def _join(whole: Path, parts: list[Path], joined: Callable[[], bool]) -> None:
    """Make one file of the parts; they may be gone where another run has done so meanwhile."""
    try:
        features = np.concatenate([np.load(part, allow_pickle=False) for part in parts])
    except FileNotFoundError:
        if not joined():
            raise
    else:
        _write(whole, features)


def _compute(
    clips: Clips, detector: Detector, folder: Path, starts: list[int], joined: Callable[[], bool]
) -> None:
    """Parts that begin with these clips, unless they are there; the next clip is read meanwhile.

    A part is lost where another run has joined the same ones and removes `folder`.
    """
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
            _require_finite(clips, start, rows, per_clip)
            try:
                _write(_part(folder, start), rows)
            except OSError:
                if not joined():
                    raise


def _require_finite(clips: Clips, start: int, rows: np.ndarray, per_clip: int) -> None:
    """Raise ValueError, with the names of the clips from `start` on, unless `rows` are finite."""
    finite = np.isfinite(rows).reshape(-1, per_clip * rows.shape[1]).all(1)
    names = [clips.clips[start + number].name for number in np.flatnonzero(~finite)]
    if names:
        raise ValueError(
            f"The features of `{clips.argument}` (={clips.root}) must be finite; NaN or infinite "
            f"are those of {', '.join(names[:3])}{', ...' if len(names) > 3 else '.'}"
        )


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
        with path.open("rb") as stream:
            features = np.load(stream, allow_pickle=False)
    except DAMAGE:
        return None
    if not isinstance(features, np.ndarray):
        return None
    whole = features.shape == shape and features.dtype == np.float32
    return features if whole and np.isfinite(features).all() else None


def _write(path: Path, features: np.ndarray) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, features, allow_pickle=False)
