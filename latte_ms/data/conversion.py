"""Video files to folders of images, one per frame, and back.

The folder of a video has its path without the suffix, its images are 000000.png, 000001.png, ...,
and a hidden file beside them has the frames per second. Whatever is there is complete.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latte_ms.data.frame_folder import is_image
from latte_ms.data.sources import FolderSource, VideoSource, find_sources
from latte_ms.data.video_file import DecodeError, decode_all
from latte_ms.media import FRAME_FORMATS, FRAME_RATE, write_frames, write_mp4_frames

FORMATS = tuple(FRAME_FORMATS.values())


def folders_of(videos: Path, target: Path) -> dict[Path, Path]:
    """Video files under `videos` -> the folders in `target` that they are converted to.

    Raises as `find_sources`, and ValueError where two videos would share a folder, or a folder is
    there that no conversion made.
    """
    sources = find_sources(videos, "videos", classes=False).sources
    pairs = {s.path: target / s.path.relative_to(videos).with_suffix("") for s in sources}
    taken: dict[Path, Path] = {}
    for video, folder in pairs.items():
        other = taken.setdefault(folder, video)
        if other != video:
            raise ValueError(f"{video} and {other} would have the same folder, {folder}.")
        if folder.exists() and not (folder / FRAME_RATE).is_file():
            raise ValueError(f"{folder} exists and is not what a conversion has made.")
    for video, folder in pairs.items():
        outer = next((parent for parent in folder.parents if parent in taken), None)
        if outer is not None:
            raise ValueError(f"The frames of {video} would lie among those of {taken[outer]}.")
    return pairs


def files_of(frames: Path, target: Path) -> dict[Path, Path]:
    """Folders of images under `frames` -> the mp4 files in `target` that they are converted to.

    Raises as `find_sources`.
    """
    pairs = {}
    for source in find_sources(frames, "frames", classes=False).sources:
        relative = source.path.relative_to(frames)
        name = relative.name or source.path.resolve().name
        pairs[source.path] = target / relative.parent / f"{name}.mp4"
    return pairs


def to_frames(video: Path, folder: Path, image_format: str, quality: int = 95) -> bool:
    """Write all frames of `video` to `folder`; False where they are there already.

    Args:
        image_format: of `FORMATS`.
        quality: of jpg, 1 to 95.
    Raises:
        ValueError: `folder` has images of the other format.
        DecodeError: a frame cannot be decoded; nothing is written.
        WriteError: an image cannot be written.
    """
    if folder.is_dir():
        others = [
            p for p in folder.iterdir() if is_image(p.name) and p.suffix != f".{image_format}"
        ]
        if others:
            raise ValueError(f"{folder} has frames of another format, such as {others[0].name}.")
        return False
    frames = (frame.pixels() for frame in decode_all(video))
    write_frames(folder, frames, VideoSource(video).index().fps, image_format, quality)
    return True


def to_video(folder: Path, video: Path, fps: float | None = None, crf: int = 8) -> bool:
    """Write the images of `folder` as an mp4 `video`; False where it is there already.

    Args:
        fps: frames per second; None for those of the video that the folder was made from.
        crf: as in `media.write_mp4`.
    Raises:
        ValueError: the rate is unknown, or the sides of the images are odd.
        DecodeError: an image cannot be read, or has another size than the first.
        WriteError: the file cannot be written.
    """
    if video.is_file():
        return False
    source = FolderSource(folder)
    shape = source.read([0]).shape[1:3]
    write_mp4_frames(video, _frames(source), shape, fps or _recorded_rate(folder), crf)
    return True


def _frames(source: FolderSource) -> Iterator[np.ndarray]:
    size: tuple[int, ...] = ()
    for number in range(source.num_frames()):
        frame = source.read([number])[0]
        size = size or frame.shape
        if frame.shape != size:
            raise DecodeError(f"{source.images()[number]}: differs in size from the first frame.")
        yield frame


def _recorded_rate(folder: Path) -> float:
    try:
        fps = float((folder / FRAME_RATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fps = 0.0
    if not 0 < fps < float("inf"):
        raise ValueError(f"{folder} does not say its frames per second: give `--fps`.")
    return fps
