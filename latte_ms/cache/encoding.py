"""Filling a cache: the files that are missing or damaged, one after the other."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from latte_ms.cache.index import Index
from latte_ms.cache.layout import MEAN, STD, Layout
from latte_ms.cache.shards import Entry, write_shard
from latte_ms.data.datasets import VideoDataset
from latte_ms.data.video_file import DecodeError
from latte_ms.progress import progress
from latte_ms.vae.codec import Codec
from latte_ms.weights.finite import count_non_finite
from latte_ms.weights.tensors import cast_array

logger = logging.getLogger(__name__)

_WINDOW_STREAM = 4  # first number of every seed; loaders and training have 1 to 3
T = TypeVar("T")
R = TypeVar("R")


def missing(
    paths: Mapping[int, Path], check: Callable[[int, bool], object], hide_progress: bool = False
) -> list[int]:
    """The numbers of the files that are absent, and of those that are not as they were written.

    For the latter a warning is logged. `check` (number, check_bytes) raises ValueError for them.
    """
    found = {number: path for number, path in paths.items() if path.exists()}
    damaged = {}
    for number in progress(
        found, desc="checking files", unit="file", disable=hide_progress or None
    ):
        if error := _error(check, number):
            damaged[number] = error
            logger.warning("A damaged file is written again: %s", error)
    return [number for number in paths if number not in found or number in damaged]


def _error(check: Callable[[int, bool], object], number: int) -> ValueError | None:
    try:
        check(number, True)
    except ValueError as error:
        return error
    return None


class LatentEncoder:
    """Writes files of latents.

    Every video is encoded by itself, so the bytes of a file depend neither on the other files nor
    on the rank that writes it.

    Args:
        dataset: the videos; it neither mirrors clips nor adds joint images.
        num_workers: threads that decode ahead.
    """

    def __init__(
        self, layout: Layout, dataset: VideoDataset, codec: Codec, num_workers: int
    ) -> None:
        self.layout, self.dataset, self.codec = layout, dataset, codec
        self.num_workers = num_workers

    def write(self, shards: list[int], hide_progress: bool = False) -> int:
        """Write these files, with a progress bar; returns the number of clips that were encoded.

        Mirrored copies count, too.
        """
        layout = self.layout
        jobs = (
            (video, clip)
            for shard in shards
            for video in layout.videos(shard)
            for clip in range(layout.clips)
        )
        decoded = ahead(self._decode, jobs, self.num_workers)
        total = sum(len(layout.videos(shard)) for shard in shards)
        count = 0
        with progress(
            total=total, desc="encoding videos", unit="video", disable=hide_progress or None
        ) as bar:
            for shard in shards:
                entries: dict[str, Entry] = {}
                broken: dict[str, str] = {}
                for video in layout.videos(shard):
                    clips = [next(decoded) for _ in range(layout.clips)]
                    reasons = [clip for clip in clips if isinstance(clip, str)]
                    if reasons:
                        logger.warning("skipped: %s", reasons[0])
                        broken[str(video)] = reasons[0]
                    else:
                        for number, pixels in enumerate(clips):
                            entries |= self._encode(video, number, np.asarray(pixels))
                    bar.update()
                write_shard(layout.path(shard), layout.cache_id, entries, broken)
                count += len(entries)
        return count

    def _decode(self, job: tuple[int, int]) -> np.ndarray | str:
        """A clip (F, 3, S, S), or why it cannot be read."""
        video, clip = job
        rng = np.random.default_rng(
            [_WINDOW_STREAM, self.layout.index.cache_config.seed, video, clip]
        )
        try:
            return self.dataset.clip(video, rng)
        except DecodeError as error:
            return str(error)

    def _encode(self, video: int, clip: int, pixels: np.ndarray) -> dict[str, Entry]:
        """The entries of a clip (F, 3, S, S)."""
        layout = self.layout
        entries = {layout.entry(video, clip): self._distribution(video, pixels)}
        if layout.mirrored:
            mirrored = np.ascontiguousarray(pixels[..., ::-1])
            entries[layout.entry(video, clip, True)] = self._distribution(video, mirrored)
        return entries

    def _distribution(self, video: int, pixels: np.ndarray) -> Entry:
        mean, std = self.codec.mean_and_std(pixels[None])
        return {
            part: stored(array[0], f"{part} of {self.dataset.names[video]}", self.layout.dtype)
            for part, array in ((MEAN, mean), (STD, std))
        }


def stored(array: np.ndarray, name: str, dtype: str) -> np.ndarray:
    """The array as it is kept. Raises ValueError for values that the dtype does not have."""
    if count := count_non_finite(array):
        raise ValueError(
            f"{name}: {count} of {array.size} values are NaN or infinite; encode in float32, or "
            "check the weights."
        )
    return np.ascontiguousarray(cast_array(name, array, dtype))


def ahead(function: Callable[[T], R], arguments: Iterable[T], num_workers: int) -> Iterator[R]:
    """The results in order, while threads compute the next `num_workers` ones."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="encoder")
    pending: deque[Future[R]] = deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) > num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def finished(layout: Layout) -> dict[str, str]:
    """The broken videos of a cache whose files were all written.

    Raises ValueError where a file is missing or of another cache, and where no video is usable.
    """
    broken: dict[str, str] = {}
    for shard in range(layout.num_shards):
        broken |= layout.check(shard, check_bytes=False)
    index: Index = layout.index
    if len(broken) == len(index.names):
        raise ValueError(
            f"None of the {len(index.names)} videos can be read, such as "
            f"{next(iter(broken.values()))}"
        )
    return broken
