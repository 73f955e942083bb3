"""Find the videos of a dataset on disk and read their frames: files or folders of images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from latte_ms.data.frame_folder import is_image, list_images, natural_key, read_images
from latte_ms.data.video_file import VideoIndex, index_video, is_video, read_frames

KINDS = ("videos", "frames")


class Source(Protocol):
    """One video, whatever its form on disk. Both methods raise DecodeError."""

    path: Path

    def num_frames(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(F, H, W, 3) uint8."""
        ...


class VideoSource:
    """A video file. Its index is made once, at the first use."""

    def __init__(self, path: Path):
        self.path = path
        self._index: VideoIndex | None = None

    def index(self) -> VideoIndex:
        if self._index is None:
            self._index = index_video(self.path)
        return self._index

    def num_frames(self) -> int:
        return self.index().num_frames

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return read_frames(self.path, indices, self.index())


class FolderSource:
    """A folder of images in natural order."""

    def __init__(self, path: Path):
        self.path = path
        self._images: list[Path] | None = None

    def images(self) -> list[Path]:
        if self._images is None:
            self._images = list_images(self.path)
        return self._images

    def num_frames(self) -> int:
        return len(self.images())

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return read_images(self.images(), indices)


@dataclass(frozen=True)
class Listing:
    """The videos of a dataset in a fixed order, and their classes."""

    sources: list[Source]
    labels: list[int]  # as long as sources; empty without classes
    class_names: list[str]  # sorted; empty without classes


def find_sources(root: Path, kind: str, classes: bool) -> Listing:
    """Every video under `root`, at any depth; with `classes`, in a folder per class.

    Hidden files and folders and files of other types are ignored. Raises FileNotFoundError for a
    missing folder, ValueError if there is no video or a video outside the class folders.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"`path` is not a folder: {root}.")
    names: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    if classes:
        names = sorted(p.name for p in root.iterdir() if p.is_dir() and not _is_hidden(p.name))
        _check_classes(root, kind, names)
        for label, name in enumerate(names):
            members = _walk(root / name, kind)
            paths += members
            labels += [label] * len(members)
    else:
        paths = _walk(root, kind)
    if not paths:
        content = "video files" if kind == "videos" else "folders of images"
        raise ValueError(f"`path` (={root}) holds no {content}.")
    sources: list[Source] = [
        VideoSource(path) if kind == "videos" else FolderSource(path) for path in paths
    ]
    return Listing(sources, labels, names)


def _check_classes(root: Path, kind: str, names: list[str]) -> None:
    if not names:
        raise ValueError(f"`classes` is true, but `path` (={root}) holds no class folders.")
    is_data = is_video if kind == "videos" else is_image
    loose = sorted(p.name for p in root.iterdir() if is_data(p.name) and p.is_file())
    if loose:
        raise ValueError(
            f"`classes` is true, but {len(loose)} files lie outside the class folders of "
            f"`path` (={root}): {', '.join(loose[:3])}."
        )


def _walk(root: Path, kind: str) -> list[Path]:
    """Video files, or folders that directly hold images, in natural order of their paths."""
    videos: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a parent folder would never end
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        if kind == "videos":
            videos += [Path(folder) / name for name in files if is_video(name)]
        elif any(is_image(name) for name in files):
            videos.append(Path(folder))
    return sorted(videos, key=lambda path: (natural_key(path.relative_to(root).as_posix()), path))


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
