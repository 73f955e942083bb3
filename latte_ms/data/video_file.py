"""Read chosen frames of a video file, exactly, without decoding the rest of it.

An index of the file says when each frame is shown. Where packets tell, it is made without decoding
(mp4 and matroska with the usual codecs); other files are decoded once to count their frames. Frames
are decoded from the keyframe before them on, in one thread: loader workers decode in parallel.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from latte_ms.data.frame_converter import MAX_PIXELS, FrameConverter, Orientation, orientation_of
from latte_ms.data.packets import SEEKABLE, is_countable, shows_frame

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"),
    *(".gif", ".3gp", ".ogv"),
}
# Containers with presentation times and a table of keyframes. MPEG streams have the times but no
# table; AVI has the table, but libav guesses the times.
_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# Also applies while the container is probed, and where the size changes mid-stream.
_CODEC_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
_UNREADABLE = "cannot be opened as a video"
_DEFAULT_STREAM_BONUS = (
    5_000_000  # pixels that the mark "default" is worth when ffmpeg picks a stream
)


class DecodeError(RuntimeError):
    """A file, or some of its frames, cannot be read. The message names the path."""


@dataclass(frozen=True)
class VideoIndex:
    """The decodable frames of a file. Times are in the stream's units."""

    times: np.ndarray  # (F,) int64, presentation time of each displayed frame, ascending
    key_times: np.ndarray  # (K,) int64, presentation time of each keyframe, ascending
    fps: float  # 0 where unknown
    timed: bool  # the times are reliable; if not, frames are counted from the start
    seekable: bool  # seeks are reliable; if not, decoding begins at the start
    orientation: Orientation  # of the first frame, which holds for all, as in ffmpeg

    @property
    def num_frames(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class DecodedFrame:
    """A frame before its conversion to pixels."""

    path: str | Path
    frame: Any
    converter: FrameConverter

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        return self.converter.size

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises DecodeError for colours that cannot be converted."""
        with _naming(self.path, "a frame cannot be converted"):
            return self.converter.convert(self.frame)


def is_video(name: str) -> bool:
    """Whether a file of this name counts as a video; hidden files do not."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")


def index_video(path: str | Path) -> VideoIndex:
    """The index of `path`. Raises DecodeError when it is not a video, or shows no frame."""
    with _opened(path) as (container, stream, _), _naming(path, _UNREADABLE):
        index = _index_packets(container, stream)
    return index or _index_frames(path)


def read_frames(
    path: str | Path, indices: Sequence[int] | np.ndarray, index: VideoIndex | None = None
) -> np.ndarray:
    """The frames `indices` (in any order) of `path`, (len(indices), H, W, 3) uint8 RGB.

    `index` saves making it again. Raises DecodeError when a frame cannot be decoded or is out of
    range.
    """
    index = index or index_video(path)
    numbers, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(numbers) or numbers[0] < 0 or numbers[-1] >= index.num_frames:
        raise DecodeError(
            f"{path}: has {index.num_frames} frames, requested {list(map(int, indices))}."
        )
    with (
        _opened(path, index.orientation) as (container, stream, converter),
        _naming(path, "frames cannot be decoded"),
    ):
        if index.timed:
            frames = _decode_by_time(container, stream, numbers, index, converter)
        else:
            frames = _decode_by_count(container, stream, numbers, converter)
        missing = [int(i) for i in numbers if int(i) not in frames]
        if missing:
            raise DecodeError(f"{path}: frames {missing} cannot be decoded.")
        return np.stack([frames[int(i)] for i in numbers[inverse]])


def read_video(path: str | Path) -> np.ndarray:
    """All frames of `path`, (F, H, W, 3) uint8 RGB."""
    return np.stack([frame.pixels() for frame in decode_all(path)])


def decode_all(path: str | Path) -> Iterator[DecodedFrame]:
    """Every frame of `path` in order.

    Raises DecodeError where decoding stops, or at the end if frames are missing.
    """
    index = index_video(path)
    expected = index.num_frames
    with _opened(path, index.orientation) as (container, stream, converter):
        frames = _decoded(container, stream)
        for number in range(expected):
            with _naming(path, f"frame {number} of {expected}"):
                frame = next(frames, None)
                if frame is None:
                    raise DecodeError(f"{path}: only {number} of {expected} frames can be decoded.")
            yield DecodedFrame(path, frame, converter)


@contextmanager
def _naming(path: str | Path, fault: str) -> Iterator[None]:
    """Whatever a library raises becomes a DecodeError that says `path`, `fault` and the reason.

    Decoding libraries raise many kinds of exceptions for a damaged file, so that all are caught.
    """
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DecodeError(f"{path}: {fault} ({reason}).") from error


@contextmanager
def _opened(
    path: str | Path, orientation: Orientation | None = None
) -> Iterator[tuple[Any, Any, FrameConverter]]:
    """The file as a container of PyAV, its video stream, and what shows its frames.

    The library receives the open file rather than its name, which it could take for an address or
    a pattern, and may open no other.
    """
    with ExitStack() as stack:
        with _naming(path, _UNREADABLE):
            file = stack.enter_context(open(path, "rb", opener=_open_without_waiting))
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DecodeError(f"{path}: is not a file.")
            source = {"fd": str(file.fileno()), "protocol_whitelist": "fd"}
            container = stack.enter_context(
                av.open(
                    "fd:",
                    options=_CODEC_OPTIONS,
                    container_options=source,
                    metadata_errors="replace",
                )
            )
            stream = _video_stream(path, container)
            converter = FrameConverter(stream, orientation or Orientation())
        yield container, stream, converter


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a pipe, too, at once."""
    return os.open(path, flags | os.O_NONBLOCK)


def _video_stream(path: str | Path, container: Any) -> Any:
    """The stream that ffmpeg and players show, ready to be decoded; cover images do not count."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise DecodeError(f"{path}: has no video stream.")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise DecodeError(f"{path}: the codec of its video stream is unknown.")
    default = av.stream.Disposition.default
    stream = max(
        known,
        key=lambda s: (
            s.width * s.height + (_DEFAULT_STREAM_BONUS if s.disposition & default else 0)
        ),
    )
    stream.thread_type = "NONE"
    stream.codec_context.options = _CODEC_OPTIONS
    return stream


def _index_packets(container: Any, stream: Any) -> VideoIndex | None:
    """The index according to the packets; None where they do not tell."""
    codec = stream.codec_context.name
    header = stream.codec_context.extradata or b""
    if container.format.name not in _INDEXED_CONTAINERS or not is_countable(codec, header):
        return None
    times: list[int] = []
    keys: list[int] = []
    shown: list[int] = []
    orientation: Orientation | None = None
    for packet in container.demux(stream):
        if not (keys or packet.is_keyframe):
            continue
        orientation = orientation or _first_orientation(packet)
        if not packet.size:
            continue
        if packet.pts is None:
            return None
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
        # Frames displayed before the first keyframe cannot be decoded.
        if packet.pts >= keys[0] and not packet.is_discard and shows_frame(codec, bytes(packet)):
            shown.append(packet.pts)
    if not shown or len(set(times)) < len(times):
        return None
    return VideoIndex(
        times=np.array(sorted(shown), np.int64),
        key_times=np.array(sorted(keys), np.int64),
        fps=_frame_rate(stream),
        timed=True,
        seekable=True,
        orientation=orientation or Orientation(),
    )


def _first_orientation(packet: Any) -> Orientation | None:
    """The orientation of the first frame that decoding this packet yields, if it yields one."""
    try:
        frames = packet.decode()
    except av.error.FFmpegError:  # the damaged part may not be needed
        return None
    return orientation_of(frames[0]) if frames else None


def _index_frames(path: str | Path) -> VideoIndex:
    """The index according to the decoder: all frames before the first damage."""
    times: list[int | None] = []
    keys: set[int] = set()
    orientation: Orientation | None = None
    with _opened(path) as (container, stream, _), _naming(path, _UNREADABLE):
        try:
            for frame in _decoded(container, stream):
                orientation = orientation or orientation_of(frame)
                times.append(frame.pts)
                if frame.key_frame and frame.pts is not None:
                    keys.add(frame.pts)
        except av.error.FFmpegError:
            if not times:
                raise
        if not times:
            raise DecodeError(f"{path}: has no frame to display.")
        fps = _frame_rate(stream)
        seekable = _is_seekable(container.format.name, stream.codec_context)
    known = [time for time in times if time is not None]
    if len(known) < len(times) or bool((np.diff(known) <= 0).any()):
        count = np.arange(len(times), dtype=np.int64)
        return VideoIndex(count, count[:1], fps, False, False, orientation or Orientation())
    key_times = np.array(sorted(keys), np.int64)
    return VideoIndex(
        times=np.array(known, np.int64),
        key_times=key_times,
        fps=fps,
        timed=True,
        seekable=seekable and len(key_times) > 0,
        orientation=orientation or Orientation(),
    )


def _is_seekable(container: str, codec: Any) -> bool:
    """Whether decoding may begin at any keyframe, once all times are known."""
    # In AVI the guessed time is right only where frames are stored in presentation order.
    has_keyframe_times = container in _INDEXED_CONTAINERS or (
        container == "avi" and not codec.has_b_frames
    )
    return has_keyframe_times and codec.name in SEEKABLE


def _frame_rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def _decode_by_time(
    container: Any, stream: Any, numbers: np.ndarray, index: VideoIndex, converter: FrameConverter
) -> dict[int, np.ndarray]:
    """The frames by their presentation time, with one seek per required keyframe."""
    keyframes = np.searchsorted(index.key_times, index.times[numbers], side="right") - 1
    keyframes = np.maximum(keyframes, 0) if index.seekable else np.zeros_like(keyframes)
    frames: dict[int, np.ndarray] = {}
    for keyframe in np.unique(keyframes):
        by_time = {int(index.times[i]): int(i) for i in numbers[keyframes == keyframe]}
        last_time = max(by_time)
        key_time = int(index.key_times[keyframe]) if keyframe > 0 else None
        for frame in _decoded(container, stream, key_time):
            if frame.pts in by_time:
                frames[by_time.pop(frame.pts)] = converter.convert(frame)
            if not by_time or (frame.pts is not None and frame.pts > last_time):
                break
    return frames


def _decode_by_count(
    container: Any, stream: Any, numbers: np.ndarray, converter: FrameConverter
) -> dict[int, np.ndarray]:
    """The frames by counting from the start, for files without reliable times."""
    requested = set(numbers.tolist())
    frames: dict[int, np.ndarray] = {}
    for number, frame in enumerate(_decoded(container, stream)):
        if number in requested:
            frames[number] = converter.convert(frame)
        if len(frames) == len(requested):
            break
    return frames


def _decoded(container: Any, stream: Any, key_time: int | None = None) -> Iterator[Any]:
    """The frames from the keyframe shown at `key_time` on, or from the first one.

    Frames that the decoder still holds back come out before the error of a damaged packet.
    """
    try:
        for packet in _from_keyframe(container, stream, key_time):
            yield from packet.decode()
    except av.error.FFmpegError:
        yield from stream.decode(None)
        raise


def _from_keyframe(container: Any, stream: Any, key_time: int | None = None) -> Iterator[Any]:
    """The packets from the keyframe shown at `key_time` on, or from the first one.

    Where a seek lands early, the packets before that keyframe are left out, so that they are not
    decoded and damage in them does not matter.
    """
    if key_time is not None:
        container.seek(key_time, stream=stream, backward=True)
    found = False
    for packet in container.demux(stream):
        found = found or (packet.is_keyframe and key_time in (None, packet.pts))
        if found:
            yield packet
