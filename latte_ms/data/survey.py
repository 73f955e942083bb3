"""Check a whole dataset once, before training: what is usable, what is not, and why."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from latte_ms.data.datasets import DataConfig
from latte_ms.data.sources import FolderSource, ImageSource, Listing, Source
from latte_ms.data.video_file import DecodeError, decode_all, index_video
from latte_ms.data.windows import frames_needed

USABLE, SHORT, BROKEN = "usable", "too short", "broken"


@dataclass(frozen=True)
class Finding:
    """The result for one video, decoded from its first to its last frame."""

    path: Path
    label: int  # index in the class names; -1 without classes
    status: str  # USABLE, SHORT or BROKEN
    num_frames: int = 0
    width: int = 0  # as shown
    height: int = 0
    fps: float = 0.0  # 0 where unknown
    reason: str = ""


def survey(config: DataConfig, listing: Listing, num_workers: int = 2) -> Iterator[Finding]:
    """Decode every video of `listing` once and yield the findings in its order."""
    needed = frames_needed(config.num_frames, config.frame_interval, config.spacing)
    labels = listing.labels or [-1] * len(listing.sources)
    with ThreadPoolExecutor(num_workers) as pool:
        yield from pool.map(
            lambda source, label: examine(source, label, needed), listing.sources, labels
        )


def examine(source: Source, label: int, needed: int) -> Finding:
    """Decode one video; it is too short with fewer than `needed` frames."""
    try:
        if isinstance(source, FolderSource | ImageSource):
            width, height, fps = _examine_images(source)
        else:
            width, height, fps = _examine_file(source.path)
        length = source.num_frames()
    except DecodeError as error:
        return Finding(source.path, label, BROKEN, reason=str(error))
    status = USABLE if length >= needed else SHORT
    reason = "" if status == USABLE else f"{source.path}: {length} frames, {needed} needed."
    return Finding(source.path, label, status, length, width, height, fps, reason)


def _examine_file(path: Path) -> tuple[int, int, float]:
    width = height = 0
    for frame in decode_all(path):
        width, height = frame.size
    return width, height, index_video(path).fps


def _examine_images(source: FolderSource | ImageSource) -> tuple[int, int, float]:
    shape = source.read([0]).shape
    for number in range(1, source.num_frames()):
        if source.read([number]).shape != shape:
            raise DecodeError(f"{source.path}: image {number} differs in size from the first.")
    return shape[2], shape[1], 0.0
