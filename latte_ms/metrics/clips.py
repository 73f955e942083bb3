"""The clips of a set of videos that a metric looks at: which ones, and their frames."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from latte_ms.data.sources import FolderSource, Source, find_sources
from latte_ms.options import check_rules, integers, one_of, option
from latte_ms.progress import progress

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
        0, "So many videos, drawn without repetition; 0: all.", integers(0, 1 << 30)
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
        seed: of the videos and starts that are drawn. What is drawn for a video does not depend on
            the others.
    Raises:
        FileNotFoundError: `root` is not a folder.
        ValueError: it holds no video that is long enough.
        DecodeError: a video cannot be read.
    """

    def __init__(self, root: str | Path, kind: str, rule: ClipRule, seed: int = 0) -> None:
        self.root, self.rule = Path(root), rule
        sources = find_videos(self.root, kind)
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
                f"{self.root} must hold videos of at least {rule.frames_needed} frames; all of its "
                f"{len(sources)} have fewer."
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
        """SHA-256 of the names and sizes of the files, the frames that are taken, and the rule."""
        lines = [json.dumps([self.rule.image_size, self.rule.resize])]
        lines += [json.dumps([c.name, _bytes(c.source), c.frames]) for c in self.clips]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_videos(root: Path, kind: str) -> list[Source]:
    """The videos under a folder, in natural order; see `Clips` for `kind` and errors."""
    one_of("auto", "videos", "frames")("kind", kind)
    if kind == "auto":
        try:
            return find_sources(root, "videos", classes=False).sources
        except ValueError:
            kind = "frames"
    return find_sources(root, kind, classes=False).sources


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


def _bytes(source: Source) -> list[int]:
    """Sizes of the files of a video."""
    files = source.images() if isinstance(source, FolderSource) else [source.path]
    return [path.stat().st_size for path in files]
