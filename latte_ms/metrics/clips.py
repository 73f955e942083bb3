"""The clips of a set of videos that a metric looks at: which ones, and their frames."""

import hashlib
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from latte_ms.data.sources import FolderSource, Source, find_sources
from latte_ms.options import check_rules, integers, one_of, option
from latte_ms.progress import progress

_PIECE_BYTES = 1 << 12  # of a file, four times, for its fingerprint

Start = Literal["first", "random"]
Resize = Literal["centre_lanczos", "short_side_bilinear"]


@dataclass(frozen=True)
class ClipRule:
    """Which frames of which videos are looked at. Raises ValueError for a value out of range."""

    num_frames: int = option(16, "Frames of a clip.", integers(1, 1024))
    interval: int = option(1, "A clip has every interval-th frame.", integers(1, 1024))
    start: Start = option(
        "first", "Where a clip begins: with the first frame, or drawn.", one_of(*get_args(Start))
    )
    min_frames: int = option(
        0, "Videos with fewer frames are left out; 0: than a clip needs.", integers(0, 1 << 20)
    )
    max_videos: int = option(
        0, "So many videos, drawn without replacement; 0: all.", integers(0, 1 << 30)
    )
    image_size: int = option(
        256,
        "Side of the frames before the network resizes them; 0: as they are.",
        integers(0, 4096),
    )
    resize: Resize = option(
        "centre_lanczos",
        "centre_lanczos: the largest centre square, by Lanczos. short_side_bilinear: the short "
        "side, bilinear with antialiasing, then the centre.",
        one_of(*get_args(Resize)),
    )

    def __post_init__(self) -> None:
        check_rules(self)

    @property
    def frames_needed(self) -> int:
        """Frames that a video must have."""
        return max((self.num_frames - 1) * self.interval + 1, self.min_frames)


@dataclass(frozen=True)
class Clip:
    """Frames of one video."""

    source: Source
    name: str  # of the video, relative to the folder of the set
    frames: tuple[int, ...]


class Clips:
    """The clips that a rule takes of the videos under a folder, in a fixed order.

    Args:
        root: folder of video files, or of folders of images, at any depth.
        kind: videos or frames; auto: frames where there is no video file.
        rule: which clips.
        seed: of the videos and starts that are drawn. The start of a video depends on the seed, on
            its length and on its place in the order.
        argument: what messages call `root`.
    Raises:
        FileNotFoundError: `root` is not a folder.
        ValueError: it holds no video that is long enough.
        DecodeError: a video cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        kind: str,
        rule: ClipRule,
        seed: int = 0,
        argument: str = "root",
    ) -> None:
        self.root, self.rule, self.argument = Path(root), rule, argument
        self._fingerprint: str | None = None
        sources = find_videos(self.root, kind, argument)
        order = list(range(len(sources)))
        if rule.max_videos:
            random.Random(seed).shuffle(order)
        self.clips: list[Clip] = []
        self.too_short = 0
        for index in progress(order, unit="video", desc=f"looking at {self.root.name}"):
            length = sources[index].num_frames()
            if length < rule.frames_needed:
                self.too_short += 1
                continue
            numbers = _frame_numbers(rule, length, seed, index)
            name = sources[index].path.relative_to(self.root).as_posix()
            self.clips.append(Clip(sources[index], name, numbers))
            if len(self.clips) == rule.max_videos:
                break
        if not self.clips:
            raise ValueError(
                f"`{argument}` (={self.root}) must hold videos of at least {rule.frames_needed} "
                f"frames; all of its {len(sources)} have fewer."
            )

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int) -> np.ndarray:
        """The frames of clip `index`, (T, H, W, 3) uint8, H and W the rule's `image_size`.

        Raises DecodeError where they cannot be decoded.
        """
        clip, size = self.clips[index], self.rule.image_size
        frames = clip.source.read(clip.frames)
        if not size or frames.shape[1:3] == (size, size):
            return frames
        return np.stack([_square(Image.fromarray(f), size, self.rule.resize) for f in frames])

    def fingerprint(self) -> str:
        """SHA-256 of the names, sizes and contents of files, the frames taken, and the rule.

        Of the content of a video file, or of each image that is taken, it is four pieces of 4 KB,
        evenly spaced: files of the same sizes are told apart, and thousands are read in seconds.
        """
        if self._fingerprint is None:
            lines = [json.dumps([self.rule.image_size, self.rule.resize])]
            checked = progress(self.clips, unit="video", desc=f"checking {self.root.name}")
            lines += [json.dumps([c.name, _bytes(c.source), c.frames, _sample(c)]) for c in checked]
            self._fingerprint = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._fingerprint


def find_videos(root: Path, kind: str, argument: str = "root") -> list[Source]:
    """The videos under a folder, in natural order; see `Clips` for arguments and errors.

    A gif beside a video file of the same stem is the same video, as `formats: [mp4, gif]` of a
    sampling recipe writes it, and is left out.
    """
    one_of("auto", "videos", "frames")("kind", kind)
    if kind != "frames":
        try:
            sources = find_sources(root, "videos", classes=False, argument=argument).sources
        except ValueError:
            if kind == "videos":
                raise
        else:
            stems = {s.path.with_suffix("") for s in sources if not _is_gif(s)}
            return [s for s in sources if not _is_gif(s) or s.path.with_suffix("") not in stems]
    return find_sources(root, "frames", classes=False, argument=argument).sources


def _is_gif(source: Source) -> bool:
    return source.path.suffix.lower() == ".gif"


def _frame_numbers(rule: ClipRule, length: int, seed: int, index: int) -> tuple[int, ...]:
    span = (rule.num_frames - 1) * rule.interval + 1
    start = 0
    if rule.start == "random":
        start = int(np.random.default_rng([seed, index]).integers(length - span + 1))
    return tuple(range(start, start + span, rule.interval))


def _square(image: Image.Image, size: int, resize: Resize) -> np.ndarray:
    """(size, size, 3) uint8"""
    width, height = image.size
    short = min(width, height)
    if resize == "centre_lanczos":
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
        return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box))
    width, height = (size if n == short else -(-n * size // short) for n in (width, height))
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def _sample(clip: Clip) -> str:
    """SHA-256 of pieces of the files that a clip is read from: the middles of their quarters."""
    found, source = hashlib.sha256(), clip.source
    paths = [source.path]
    if isinstance(source, FolderSource):
        paths = [source.images()[number] for number in clip.frames]
    for path in paths:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            for eighth in range(1, 8, 2):
                stream.seek(max(size * eighth // 8 - _PIECE_BYTES // 2, 0))
                found.update(stream.read(_PIECE_BYTES))
    return found.hexdigest()


def _bytes(source: Source) -> list[int]:
    """Sizes of the files of a video."""
    files = source.images() if isinstance(source, FolderSource) else [source.path]
    return [path.stat().st_size for path in files]
