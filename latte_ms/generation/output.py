"""Videos to files: mp4, gif, png, and a contact sheet that shows many at one look."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from latte_ms.data.video_writer import write_mp4

FORMATS = ("mp4", "gif", "png")
_MARGIN, _LABEL_HEIGHT, _BACKGROUND = 4, 14, (24, 24, 27)


def check_formats(formats: Sequence[str]) -> None:
    """Raise ValueError for a format that `save_video` cannot write, or none at all."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` must be some of {FORMATS}, got {list(formats)}.")


def prepare_folder(output: str | Path) -> None:
    """Make the folder and write to it once. Raises OSError where that cannot be done."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(
            f"`output` must be a folder that can be written to, got {output}: {error.strerror}."
        ) from error


def save_video(stem: Path, frames: np.ndarray, formats: Sequence[str], fps: float) -> list[Path]:
    """Write `frames` (F, H, W, 3) uint8 to `stem` plus each format's suffix; returns the files.

    A png of several frames shows them side by side.
    """
    check_formats(formats)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for name in formats:
        path = stem.with_name(f"{stem.name}.{name}")
        if name == "mp4":
            write_mp4(path, frames, fps)
        elif name == "png":
            Image.fromarray(np.concatenate(list(frames), axis=1)).save(path)
        else:
            pictures = [Image.fromarray(frame) for frame in frames]
            pictures[0].save(
                path, save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0
            )
        written.append(path)
    return written


def contact_sheet(
    videos: Sequence[np.ndarray], titles: Sequence[str], columns: int = 8
) -> Image.Image:
    """One row per video (F, H, W, 3) uint8 of the same size: `columns` frames, evenly in time.

    Raises ValueError unless there is a title for each video, and all are of one shape.
    """
    if not videos or len(videos) != len(titles):
        raise ValueError(
            f"`videos` ({len(videos)}) and `titles` ({len(titles)}) must pair up, one at least."
        )
    shapes = {video.shape for video in videos}
    if len(shapes) > 1:
        raise ValueError(f"`videos` must be of one shape, got {sorted(shapes)}.")
    count, height, width, _ = videos[0].shape
    picked = np.unique(np.linspace(0, count - 1, columns).round().astype(int))
    row = height + _LABEL_HEIGHT + _MARGIN
    size = (len(picked) * (width + _MARGIN) + _MARGIN, len(videos) * row + _MARGIN)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (video, title) in enumerate(zip(videos, titles, strict=True)):
        top = _MARGIN + i * row
        draw.text((_MARGIN, top), title, fill=(230, 230, 230))
        for j, frame in enumerate(picked):
            left = _MARGIN + j * (width + _MARGIN)
            sheet.paste(Image.fromarray(video[frame]), (left, top + _LABEL_HEIGHT))
    return sheet
