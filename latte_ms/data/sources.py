"""Find the videos of a dataset on disk and read their frames: files, folders of images, images."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from latte_ms.data.frame_folder import is_image, list_images, natural_key, read_images
from latte_ms.data.video_file import VideoIndex, index_video, is_video, read_frames

KINDS = ("videos", "frames", "images")
_CONTENTS = {"videos": "video files", "frames": "folders of images", "images": "image files"}


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


class ImageSource:
    """An image file, as a video of one frame."""

    def __init__(self, path: Path):
        self.path = path

    def num_frames(self) -> int:
        return 1

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return read_images([self.path], indices)


_SOURCES: dict[str, Callable[[Path], Source]] = {
    "videos": VideoSource,
    "frames": FolderSource,
    "images": ImageSource,
}


@dataclass(frozen=True)
class Listing:
    """The videos of a dataset in a fixed order, and their classes."""

    sources: list[Source]
    labels: list[int]  # as long as sources; empty without classes
    class_names: list[str]  # sorted; empty without classes


def find_sources(root: Path, kind: str, classes: bool, argument: str = "path") -> Listing:
    """Every video under `root`, at any depth; with `classes`, in a folder per class.

    Hidden files and folders and files of other types are ignored. `argument` is what messages call
    `root`. Raises FileNotFoundError for a missing folder, ValueError if there is no video or a
    video outside the class folders.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"`{argument}` is not a folder: {root}.")
    names: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    if classes:
        names = sorted(p.name for p in root.iterdir() if p.is_dir() and not _is_hidden(p.name))
        _check_classes(root, kind, names, argument)
        for label, name in enumerate(names):
            members = _walk(root / name, kind)
            paths += members
            labels += [label] * len(members)
    else:
        paths = _walk(root, kind)
    if not paths:
        raise ValueError(f"`{argument}` (={root}) holds no {_CONTENTS[kind]}.")
    return Listing([_SOURCES[kind](path) for path in paths], labels, names)


def listed_sources(root: Path, kind: str, lines: Mapping[str, int], argument: str) -> Listing:
    """The videos of these names, relative to `root`, in their order.

    Args:
        lines: name -> number of its line in the file that `argument` names in messages.
    Raises:
        FileNotFoundError: `root` is not a folder.
        ValueError: names are no videos of the kind; the message has the first ones.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"`path` is not a folder: {root}.")
    wrong = [name for name in lines if not _is_kind(root / name, kind)]
    if wrong:
        shown = ", ".join(f"{name} (line {lines[name]})" for name in wrong[:3])
        raise ValueError(
            f"{argument} must name {_CONTENTS[kind]} (`kind` {kind}) under `path` (={root}); "
            f"{len(wrong)} of {len(lines)} are none: {shown}{', ...' if len(wrong) > 3 else '.'}"
        )
    return Listing([_SOURCES[kind](root / name) for name in lines], [], [])


def _is_kind(path: Path, kind: str) -> bool:
    if kind == "frames":
        return path.is_dir()
    return _is_file_of(kind, path.name) and path.is_file()


def _is_file_of(kind: str, name: str) -> bool:
    """Whether a file of this name is a video, or for the other kinds an image."""
    return is_video(name) if kind == "videos" else is_image(name)


def _check_classes(root: Path, kind: str, names: list[str], argument: str) -> None:
    if not names:
        raise ValueError(f"`classes` is true, but `{argument}` (={root}) holds no class folders.")
    loose = sorted(p.name for p in root.iterdir() if _is_file_of(kind, p.name) and p.is_file())
    if loose:
        raise ValueError(
            f"`classes` is true, but {len(loose)} files lie outside the class folders of "
            f"`{argument}` (={root}): {', '.join(loose[:3])}."
        )


def _walk(root: Path, kind: str) -> list[Path]:
    """Files, or folders that directly hold images, in natural order of their paths."""
    videos: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a parent folder would never end
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        if kind != "frames":
            videos += [Path(folder) / name for name in files if _is_file_of(kind, name)]
        elif any(is_image(name) for name in files):
            videos.append(Path(folder))
    return sorted(videos, key=lambda path: (natural_key(path.relative_to(root).as_posix()), path))


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
