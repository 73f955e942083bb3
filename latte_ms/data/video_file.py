"""Read chosen frames of a video file, exactly, without decoding the rest of it.

Two decoders. PyAV is always there and seeks with an index of the packets, made without decoding.
decord is optional (it has no wheel for aarch64): it is quicker on small files, but its seeks land
on a wrong frame when pictures before a keyframe in time come after it in the file (open GOP, AVI
with B-frames) or when an edit list hides frames. So decord gets the files that the index shows to
be free of that, and PyAV the others; both then give the same pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"),
    *(".gif", ".3gp", ".ogv"),
}
DECODERS = ("auto", "pyav")
# Containers with real presentation times, where a seek lands on the wanted keyframe. MPEG streams
# have the times but no table of keyframes; AVI has the table, and libav guesses the times.
_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}


class DecodeError(RuntimeError):
    """A file that cannot be read, or not at the wanted frames. The message names the path."""


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are, from its packets alone. Times are in the stream's units."""

    times: np.ndarray  # (F,) int64, presentation time of each shown frame, ascending
    key_times: np.ndarray  # (K,) int64, presentation time of each keyframe
    key_seeks: np.ndarray  # (K,) int64, where to seek for it
    fps: float
    timed: bool  # the times can be trusted; if not, frames are counted from the start
    seekable: bool  # seeks land where they should; if not, decoding begins at the start
    exact_in_decord: bool  # seekable, no open GOP, no hidden frame

    @property
    def num_frames(self) -> int:
        return len(self.times)


def is_video(name: str) -> bool:
    """Whether a file of this name is taken for a video; hidden files are not."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")


def index_video(path: str | Path) -> VideoIndex:
    """Read the packets of `path` (no decoding). Raises DecodeError when it is no video."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DecodeError(f"{path}: has no video stream.")
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            fps = float(stream.average_rate or stream.guessed_rate or Fraction(0))
            reordered = bool(stream.codec_context.has_b_frames)
            name = container.format.name
            return _build_index(path, packets, fps, reordered, name)
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"{path}: cannot be opened as a video ({error}).") from error


def read_frames(
    path: str | Path,
    indices: Sequence[int] | np.ndarray,
    index: VideoIndex | None = None,
    decoder: str = "auto",
) -> np.ndarray:
    """The frames `indices` (in any order) of `path`, (len(indices), H, W, 3) uint8 RGB.

    `index` saves reading the packets again. Raises DecodeError when a wanted frame cannot be
    decoded or is out of range.
    """
    if decoder not in DECODERS:
        raise ValueError(f"`decoder` must be one of {DECODERS}, got {decoder!r}.")
    index = index or index_video(path)
    wanted, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= index.num_frames:
        raise DecodeError(
            f"{path}: has {index.num_frames} frames, asked for {list(map(int, indices))}."
        )
    if decoder == "auto" and index.exact_in_decord and decord_or_none() is not None:
        try:
            return read_with_decord(path, wanted)[inverse]
        except DecodeError:
            pass  # PyAV has the last word, as on machines without decord
    return read_with_pyav(path, wanted, index)[inverse]


def read_video(path: str | Path) -> np.ndarray:
    """All frames of `path`, (F, H, W, 3) uint8 RGB."""
    return np.stack([_to_rgb(frame) for frame in decode_all(path)])


def decode_all(path: str | Path) -> Iterator[Any]:
    """Every frame of `path` in order, as PyAV's frames (`width`, `height`, ... known, no pixels
    converted). Raises DecodeError where decoding stops, or at the end if frames are missing.
    """
    expected = index_video(path).num_frames
    number = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame
                number += 1
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"{path}: frame {number} of {expected}: {error}.") from error
    if number < expected:
        raise DecodeError(f"{path}: only {number} of {expected} frames can be decoded.")


def read_with_decord(path: str | Path, wanted: np.ndarray) -> np.ndarray:
    """Ascending frames `wanted` by decord, (F, H, W, 3) uint8."""
    decord = decord_or_none()
    if decord is None:
        raise DecodeError(f"{path}: decord is not installed.")
    try:
        # One thread per file: parallelism comes from the loader's workers.
        reader = decord.VideoReader(str(path), num_threads=1)
        return reader.get_batch(wanted.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError(f"{path}: decord cannot decode frames {wanted.tolist()}.") from error


def read_with_pyav(path: str | Path, wanted: np.ndarray, index: VideoIndex) -> np.ndarray:
    """Ascending frames `wanted` by PyAV, (F, H, W, 3) uint8: to the keyframe, then decode on."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            if index.timed:
                frames = _decode_by_time(container, stream, wanted, index)
            else:
                frames = _decode_by_count(container, stream, wanted)
        if len(frames) < len(wanted):
            missing = [int(i) for i in wanted if int(i) not in frames]
            raise DecodeError(f"{path}: frames {missing} cannot be decoded.")
        return np.stack([frames[int(i)] for i in wanted])
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"{path}: frames cannot be decoded ({error}).") from error


@cache
def decord_or_none() -> Any:
    """The decord module, or None where it is missing or fails to load."""
    try:
        import decord
    except (ImportError, OSError, RuntimeError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _build_index(
    path: str | Path, packets: list[Any], fps: float, reordered: bool, container: str
) -> VideoIndex:
    first = next((i for i, packet in enumerate(packets) if packet.is_keyframe), None)
    if first is None:
        raise DecodeError(f"{path}: has no keyframe.")
    packets = packets[first:]
    times = [packet.dts if packet.pts is None else packet.pts for packet in packets]
    # In AVI the guess is right only where frames are stored in the order they are shown.
    in_doubt = container == "avi" and reordered
    if None in times or len(set(times)) < len(times) or in_doubt:
        count = np.arange(len(packets), dtype=np.int64)
        return VideoIndex(count, count[:1], count[:1], fps, False, False, False)
    # Frames shown before the first keyframe cannot be decoded; discarded ones are not shown.
    pairs = list(zip(times, packets, strict=True))
    shown = sorted(time for time, p in pairs if time >= times[0] and not p.is_discard)
    if not shown:
        raise DecodeError(f"{path}: has no frame to show.")
    keys = [(time, p.pts if p.dts is None else p.dts) for time, p in pairs if p.is_keyframe]
    key_times, key_seeks = np.array(keys, np.int64).T
    whole = first == 0 and len(shown) == len(packets)
    indexed = container in _INDEXED_CONTAINERS
    return VideoIndex(
        times=np.array(shown, np.int64),
        key_times=key_times,
        key_seeks=key_seeks,
        fps=fps,
        timed=True,
        seekable=indexed or container == "avi",
        exact_in_decord=indexed and whole and _groups_are_closed(pairs),
    )


def _groups_are_closed(pairs: list[tuple[int, Any]]) -> bool:
    """Whether no frame that follows a keyframe in the file is shown before it."""
    key_time = pairs[0][0]
    for time, packet in pairs:
        if packet.is_keyframe:
            key_time = max(key_time, time)
        elif time < key_time:
            return False
    return True


def _decode_by_time(
    container: Any, stream: Any, wanted: np.ndarray, index: VideoIndex
) -> dict[int, np.ndarray]:
    """The frames by their presentation time, with one seek per keyframe needed."""
    group = np.searchsorted(index.key_times, index.times[wanted], side="right") - 1
    if not index.seekable:
        group[:] = 0
    frames: dict[int, np.ndarray] = {}
    for key in np.unique(group):
        numbers = {int(index.times[i]): int(i) for i in wanted[group == key]}
        last = max(numbers)
        if key > 0:
            container.seek(int(index.key_seeks[key]), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts in numbers:
                frames[numbers.pop(frame.pts)] = _to_rgb(frame)
            if not numbers or (frame.pts is not None and frame.pts > last):
                break
    return frames


def _decode_by_count(container: Any, stream: Any, wanted: np.ndarray) -> dict[int, np.ndarray]:
    """The frames by counting from the start, for files without trustworthy times."""
    numbers = set(wanted.tolist())
    frames: dict[int, np.ndarray] = {}
    for number, frame in enumerate(container.decode(stream)):
        if number in numbers:
            frames[number] = _to_rgb(frame)
        if len(frames) == len(numbers):
            break
    return frames


def _to_rgb(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8, turned upright if the file says so."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = int(getattr(frame, "rotation", 0)) // 90 % 4
    return np.rot90(pixels, turns) if turns else pixels
