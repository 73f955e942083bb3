"""A folder of videos, or of images, as a numbered collection of clips ready for the network.

An item is a dictionary of arrays; F is `num_frames`, n `num_joint_images`, S `image_size`:
    video         (F + n, 3, S, S) float32 in [-1, 1], the n joint images last
    index         () int32, number of the video that was read
    image_indices (n,) int32, numbers of the videos of the joint images, only with n > 0
    label         () int32, only with `classes`
    image_labels  (n,) int32, only with `classes` and n > 0
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from latte_ms.data.captions import Captions, read_captions
from latte_ms.data.sources import KINDS, Listing, Source, find_sources, listed_sources
from latte_ms.data.transforms import CROPS, to_pixel_values, to_square
from latte_ms.data.video_file import DecodeError
from latte_ms.data.windows import SPACINGS, choose_frames, frames_needed
from latte_ms.messages import shown
from latte_ms.options import MANY, Rule, check_each, integers, numbers, one_of

logger = logging.getLogger(__name__)

Item = dict[str, np.ndarray]
# Upper limits: beyond them a value is a mistake that would cost hours, or all of the memory.
_RULES: dict[str, Rule] = {
    "image_size": integers(1, 8192),
    "num_frames": integers(1, 4096),
    "frame_interval": integers(1, MANY),
    "num_joint_images": integers(0, 4096),
    "cache_limit_gb": numbers(0, MANY),
    "kind": one_of(*KINDS),
    "spacing": one_of(*SPACINGS),
    "crop": one_of(*CROPS),
}


@dataclass(frozen=True)
class DataConfig:
    """Which videos to read and how to make clips from them. Raises ValueError for a bad value."""

    section: ClassVar[str] = ""  # what the names of the fields begin with in messages
    path: str  # folder of videos, absolute or relative to the working directory
    kind: str = "videos"  # videos: files; frames: a folder of images per video; images: files
    classes: bool = False  # the folders directly under `path` are the classes
    image_size: int = 256  # height and width of a clip in pixels
    num_frames: int = 16  # per clip
    frame_interval: int = 3  # 1: consecutive frames
    spacing: str = "stride"  # stride: exact interval; linspace: evenly spaced, as upstream
    crop: str = "resize_crop"  # or crop_resize; see transforms.to_square
    flip: bool = False  # mirror half of the training clips
    num_joint_images: int = 0  # single frames of other videos, appended to the clip
    cache: bool = False  # keep decoded videos in memory, for small sets
    cache_limit_gb: float = 4.0  # videos beyond it are decoded at each use
    text_embeddings: str = ""  # safetensors file with an array per video; see TextEmbeddings
    captions: str = ""  # .csv or .jsonl of paths and captions, which names the videos to read

    def __post_init__(self) -> None:
        at = self.section
        check_each(self, _RULES, at)
        if self.kind == "images" and self.num_frames != 1:
            raise ValueError(
                f"`{at}num_frames` must be 1 for `{at}kind` images, got {self.num_frames}."
            )
        if self.captions and self.classes:
            raise ValueError(f"`{at}classes` must be false with `{at}captions`, got true.")
        if self.captions and self.text_embeddings:
            raise ValueError(
                f"Give one of `{at}captions` and `{at}text_embeddings`, got both: "
                f"{shown(self.captions)} and {shown(self.text_embeddings)}."
            )


@dataclass(frozen=True)
class DataSection(DataConfig):
    """`DataConfig` as the section `data` of a recipe."""

    section: ClassVar[str] = "data."


def list_videos(config: DataConfig) -> tuple[Listing, Captions | None]:
    """The videos that `config` names, and their captions if it names a file of captions.

    With captions the data set has exactly the videos of that file, in its order. Raises as
    `read_captions`, `find_sources` and `listed_sources` do.
    """
    root = Path(config.path).expanduser()
    if not config.captions:
        return find_sources(root, config.kind, config.classes), None
    captions = read_captions(config.captions)
    lines, argument = captions.lines, f"`captions` (={config.captions})"
    return listed_sources(root, config.kind, lines, argument), captions


class VideoDataset:
    """Clips of the videos under `config.path`.

    In training the window is drawn at random and clips may be mirrored; in evaluation the middle
    window is taken and nothing is mirrored.

    The constructor looks for one usable video and raises ValueError if there is none. A video that
    turns out to be unreadable or too short is reported once, by a warning with its path, and
    replaced by another one, drawn from the same random numbers.
    """

    def __init__(self, config: DataConfig, augment: bool = True):
        self.config = config
        self.augment = augment
        listing, self.captions = list_videos(config)
        self.sources = listing.sources
        self.labels = np.array(listing.labels, np.int32)
        self.class_names = listing.class_names
        self._reported: set[Path] = set()
        self._lock = threading.Lock()
        self._cache = VideoCache(config.cache_limit_gb if config.cache else 0.0)
        self._check_usable()

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def names(self) -> list[str]:
        """Path of each video relative to `config.path`, with forward slashes."""
        root = Path(self.config.path).expanduser()
        return [source.path.relative_to(root).as_posix() for source in self.sources]

    @property
    def item_shape(self) -> tuple[int, int, int, int]:
        """Shape of an item's `video`."""
        size = self.config.image_size
        return (self.config.num_frames + self.config.num_joint_images, 3, size, size)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """Item `index`; every random choice comes from `rng` alone.

        Raises IndexError out of range, DecodeError when no video can be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in 0..{len(self) - 1}, got {index}.")
        chosen, clip = self._first_readable(index, self._read_clip, rng)
        item: Item = {"index": np.array(chosen, np.int32)}
        parts, joint_indices = [clip], []
        for _ in range(self.config.num_joint_images):
            other = int(rng.integers(len(self) - 1)) if len(self) > 1 else 0
            other += other >= chosen and len(self) > 1  # any video but this one
            other, image = self._first_readable(other, self._read_image, rng)
            parts.append(image)
            joint_indices.append(other)
        item["video"] = np.concatenate(parts) if len(parts) > 1 else clip
        if joint_indices:
            item["image_indices"] = np.array(joint_indices, np.int32)
        if self.config.classes:
            item["label"] = self.labels[chosen]
            if joint_indices:
                item["image_labels"] = self.labels[joint_indices]
        return item

    def clip(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """(F, 3, S, S) of video `index` itself. Raises DecodeError where it cannot be read."""
        return self._read_clip(index, rng)

    def _first_readable(
        self,
        index: int,
        read: Callable[[int, np.random.Generator], np.ndarray],
        rng: np.random.Generator,
    ) -> tuple[int, np.ndarray]:
        """Apply `read` to video `index`; if it fails, to others in random order until one succeeds.

        Nothing is remembered between calls: the choice depends on `rng` alone, not on which worker
        met the broken file before.
        """
        pixels = self._read_or_report(index, read, rng)
        if pixels is not None:
            return index, pixels
        for other in rng.permutation(len(self)).tolist():
            pixels = self._read_or_report(other, read, rng)
            if pixels is not None:
                return other, pixels
        raise DecodeError(f"{self.config.path}: none of its {len(self)} videos can be read.")

    def _read_or_report(
        self,
        index: int,
        read: Callable[[int, np.random.Generator], np.ndarray],
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """`read(index, rng)`; None if the video cannot be read, with a warning the first time."""
        try:
            return read(index, rng)
        except DecodeError as error:
            self._report(self.sources[index].path, error)
            return None

    def _read_clip(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """(F, 3, S, S) of one video."""
        config, source = self.config, self.sources[index]
        length = self._usable_length(source)
        window_rng = rng if self.augment else None
        indices = choose_frames(
            length, config.num_frames, config.frame_interval, config.spacing, window_rng
        )
        return self._to_pixel_values(self._cache.read(source, indices), rng)

    def _read_image(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """(1, 3, S, S), one random frame of a video."""
        source = self.sources[index]
        length = source.num_frames()
        if length < 1:
            raise DecodeError(f"{source.path}: has no frames.")
        return self._to_pixel_values(self._cache.read(source, rng.integers(length, size=1)), rng)

    def _to_pixel_values(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        flip = self.config.flip and self.augment and rng.random() < 0.5
        return to_pixel_values(to_square(frames, self.config.image_size, self.config.crop), flip)

    def _usable_length(self, source: Source) -> int:
        config = self.config
        length = source.num_frames()
        needed = frames_needed(config.num_frames, config.frame_interval, config.spacing)
        if length < needed:
            raise DecodeError(
                f"{source.path}: is too short, {length} frames; {config.num_frames} frames "
                f"at interval {config.frame_interval} need {needed}."
            )
        return length

    def _check_usable(self) -> None:
        """Fail before training if no video is readable and long enough."""
        try:
            self._first_readable(0, self._read_clip, np.random.default_rng(0))
        except DecodeError as error:
            raise ValueError(
                f"`path` (={self.config.path}): none of its {len(self)} videos can be used; "
                "the warnings above say why."
            ) from error

    def _report(self, path: Path, error: DecodeError) -> None:
        with self._lock:
            if path in self._reported:
                return
            self._reported.add(path)
        logger.warning("skipped: %s", error)


class VideoCache:
    """Whole decoded videos by path, up to a limit in GB (10^9 bytes); safe between threads."""

    def __init__(self, limit_gb: float):
        self._limit = limit_gb * 1e9
        self._used = 0
        self._videos: dict[Path, np.ndarray] = {}
        self._uncached: set[Path] = set()  # damaged videos, and those beyond the limit
        self._lock = threading.Lock()

    def read(self, source: Source, indices: np.ndarray) -> np.ndarray:
        """Frames of `source`, equal to `source.read(indices)`."""
        if self._limit <= 0 or source.path in self._uncached:
            return source.read(indices)
        video = self._videos.get(source.path)
        if video is None:
            video = self._add(source)
        return source.read(indices) if video is None else video[indices]

    def _add(self, source: Source) -> np.ndarray | None:
        """Decode a whole video and store it; None if it is damaged or does not fit."""
        try:
            length = source.num_frames()
            first = source.read([0])
            if self._used + first.nbytes * length > self._limit:
                raise DecodeError(f"{source.path}: does not fit into the cache.")
            video = source.read(range(length))
        except DecodeError:
            self._uncached.add(source.path)
            return None
        with self._lock:
            if source.path not in self._videos:
                self._videos[source.path] = video
                self._used += video.nbytes
        return video
