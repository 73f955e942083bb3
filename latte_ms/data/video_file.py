"""Read chosen frames of a video file, exactly, without decoding the rest of it.

There are two decoders. PyAV is always available and seeks with an index of the packets, which is
read without decoding. decord is optional (it has no wheel for aarch64). It is faster on small
files, but it seeks to a wrong frame where frames that are displayed before a keyframe are stored
after it (open GOP, AVI with B-frames), or where an edit list hides frames. decord therefore reads
only mp4 and matroska files whose index shows neither; both decoders return the same pixels for
these.
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
# Containers with presentation times and a table of keyframes. MPEG streams have the times but no
# table; AVI has the table, but libav guesses the times.
_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}


class DecodeError(RuntimeError):
    """A file, or some of its frames, cannot be read. The message names the path."""


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are, according to its packets. Times are in the stream's units."""

    times: np.ndarray  # (F,) int64, presentation time of each displayed frame, ascending
    key_times: np.ndarray  # (K,) int64, presentation time of each keyframe
    key_seeks: np.ndarray  # (K,) int64, where to seek for it
    fps: float
    timed: bool  # the times are reliable; if not, frames are counted from the start
    seekable: bool  # seeks are reliable; if not, decoding begins at the start
    exact_in_decord: bool  # mp4 or matroska, no open GOP, no hidden frame

    @property
    def num_frames(self) -> int:
        return len(self.times)


def is_video(name: str) -> bool:
    """Whether a file of this name counts as a video; hidden files do not."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")


def index_video(path: str | Path) -> VideoIndex:
    """Read the packets of `path` (no decoding). Raises DecodeError when it is not a video."""
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

    `index` saves reading the packets again. Raises DecodeError when a frame cannot be decoded or
    is out of range.
    """
    if decoder not in DECODERS:
        raise ValueError(f"`decoder` must be one of {DECODERS}, got {decoder!r}.")
    index = index or index_video(path)
    numbers, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(numbers) or numbers[0] < 0 or numbers[-1] >= index.num_frames:
        raise DecodeError(
            f"{path}: has {index.num_frames} frames, requested {list(map(int, indices))}."
        )
    if decoder == "auto" and index.exact_in_decord and decord_or_none() is not None:
        try:
            return read_with_decord(path, numbers)[inverse]
        except DecodeError:
            pass  # fall back to PyAV, as on machines without decord
    return read_with_pyav(path, numbers, index)[inverse]


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


def read_with_decord(path: str | Path, numbers: np.ndarray) -> np.ndarray:
    """The frames of ascending `numbers` by decord, (F, H, W, 3) uint8."""
    decord = decord_or_none()
    if decord is None:
        raise DecodeError(f"{path}: decord is not installed.")
    try:
        # One thread per file: parallelism comes from the loader's workers.
        reader = decord.VideoReader(str(path), num_threads=1)
        return reader.get_batch(numbers.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError(f"{path}: decord cannot decode frames {numbers.tolist()}.") from error


def read_with_pyav(path: str | Path, numbers: np.ndarray, index: VideoIndex) -> np.ndarray:
    """The frames of ascending `numbers` by PyAV, (F, H, W, 3) uint8.

    Seeks to the keyframe before each and decodes from there.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            if index.timed:
                frames = _decode_by_time(container, stream, numbers, index)
            else:
                frames = _decode_by_count(container, stream, numbers)
        if len(frames) < len(numbers):
            missing = [int(i) for i in numbers if int(i) not in frames]
            raise DecodeError(f"{path}: frames {missing} cannot be decoded.")
        return np.stack([frames[int(i)] for i in numbers])
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"{path}: frames cannot be decoded ({error}).") from error


@cache
def decord_or_none() -> Any:
    """The decord module, or None where it is not installed or fails to load."""
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
    # In AVI the guess is right only where frames are stored in presentation order.
    guessed = container == "avi" and reordered
    if None in times or len(set(times)) < len(times) or guessed:
        count = np.arange(len(packets), dtype=np.int64)
        return VideoIndex(count, count[:1], count[:1], fps, False, False, False)
    # Frames displayed before the first keyframe cannot be decoded; discarded ones are not
    # displayed.
    pairs = list(zip(times, packets, strict=True))
    shown = sorted(time for time, p in pairs if time >= times[0] and not p.is_discard)
    if not shown:
        raise DecodeError(f"{path}: has no frame to display.")
    keys = [(time, p.pts if p.dts is None else p.dts) for time, p in pairs if p.is_keyframe]
    key_times, key_seeks = np.array(keys, np.int64).T
    nothing_hidden = first == 0 and len(shown) == len(packets)
    indexed = container in _INDEXED_CONTAINERS
    return VideoIndex(
        times=np.array(shown, np.int64),
        key_times=key_times,
        key_seeks=key_seeks,
        fps=fps,
        timed=True,
        seekable=indexed or container == "avi",
        exact_in_decord=indexed and nothing_hidden and _groups_are_closed(pairs),
    )


def _groups_are_closed(pairs: list[tuple[int, Any]]) -> bool:
    """Whether no frame that follows a keyframe in the file is displayed before it."""
    key_time = pairs[0][0]
    for time, packet in pairs:
        if packet.is_keyframe:
            key_time = max(key_time, time)
        elif time < key_time:
            return False
    return True


def _decode_by_time(
    container: Any, stream: Any, numbers: np.ndarray, index: VideoIndex
) -> dict[int, np.ndarray]:
    """The frames by their presentation time, with one seek per required keyframe."""
    keyframes = np.searchsorted(index.key_times, index.times[numbers], side="right") - 1
    if not index.seekable:
        keyframes[:] = 0
    frames: dict[int, np.ndarray] = {}
    for keyframe in np.unique(keyframes):
        by_time = {int(index.times[i]): int(i) for i in numbers[keyframes == keyframe]}
        last_time = max(by_time)
        if keyframe > 0:
            container.seek(int(index.key_seeks[keyframe]), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts in by_time:
                frames[by_time.pop(frame.pts)] = _to_rgb(frame)
            if not by_time or (frame.pts is not None and frame.pts > last_time):
                break
    return frames


def _decode_by_count(container: Any, stream: Any, numbers: np.ndarray) -> dict[int, np.ndarray]:
    """The frames by counting from the start, for files without reliable times."""
    requested = set(numbers.tolist())
    frames: dict[int, np.ndarray] = {}
    for number, frame in enumerate(container.decode(stream)):
        if number in requested:
            frames[number] = _to_rgb(frame)
        if len(frames) == len(requested):
            break
    return frames


def _to_rgb(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8, rotated as the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    quarter_turns = int(getattr(frame, "rotation", 0)) // 90 % 4
    return np.rot90(pixels, quarter_turns) if quarter_turns else pixels
