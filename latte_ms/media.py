"""Videos and images as files: mp4, gif, png, folders of frames, and contact sheets.

Every file, and every folder of frames, appears under its name only when it is complete.
"""

import errno
import io
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from latte_ms.atomic import WriteError, atomic_file, atomic_folder

FRAME_FORMATS = {"frames": "png", "frames_jpg": "jpg"}  # of folders -> of the images in them
FORMATS = ("mp4", "gif", "png", *FRAME_FORMATS)
FRAME_RATE = ".fps"  # the file of a folder of frames that has its frames per second
GIF_MAX_FPS = 100  # a gif's delays are hundredths of a second
MP4_MAX_FPS = 1000
_BT709 = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
_TO_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,"
    f"format=yuv420p,setparams={_BT709}"
)
_NAME_BYTES = 120  # longest file stem, without its number
_IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG"}  # Pillow's names
_MARGIN, _LABEL_HEIGHT, _BACKGROUND, _LABEL_COLOUR = 4, 14, (24, 24, 27), (230, 230, 230)


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """Pixel values of any shape from [-1, 1] to [0, 1], float32, clamped."""
    return np.clip(np.asarray(pixels, np.float32) * 0.5 + 0.5, 0.0, 1.0)


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Values of any shape in [0, 1] to uint8: floor(255 x + 0.5) of x clamped to [0, 1]."""
    values = np.clip(np.asarray(frames, np.float32), 0.0, 1.0) * 255.0 + 0.5
    return values.astype(np.uint8)


def check_formats(formats: Sequence[str], fps: float) -> None:
    """Raise ValueError for a format, or a frame rate, that `save_video` cannot write."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` must be one or more of {FORMATS}, got {list(formats)}.")
    images = [name for name in formats if name == "png" or name in FRAME_FORMATS]
    if len(set(images)) > 1:
        raise ValueError(
            "`formats` must have at most one of frames and frames_jpg, which share a name, and no "
            f"png beside them, which would be taken for a frame, got {list(formats)}."
        )
    limit = GIF_MAX_FPS if "gif" in formats else MP4_MAX_FPS
    if not 0 < fps <= limit:
        raise ValueError(
            f"`fps` must be above 0 and at most {limit} for {list(formats)}, got {fps}."
        )


def prepare_folder(output: str | Path) -> None:
    """Create the folder and check that files can be written to it. Raises OSError otherwise."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(
            f"`output` must be a folder that can be written to, got {output}: {error.strerror}."
        ) from error


def video_path(stem: Path, name: str) -> Path:
    """Where `save_video` writes the format `name`: a file, or for frames the folder `stem`."""
    return stem if name in FRAME_FORMATS else stem.with_name(f"{stem.name}.{name}")


def is_saved(stem: Path, formats: Sequence[str]) -> bool:
    """Whether all that `save_video` writes is there."""
    paths = {name: video_path(stem, name) for name in formats}
    return all(p.is_dir() if name in FRAME_FORMATS else p.is_file() for name, p in paths.items())


def save_video(
    stem: Path, frames: np.ndarray, formats: Sequence[str], fps: float, crf: int = 8
) -> list[Path]:
    """Write `frames` (F, H, W, 3) uint8 once per format; returns the paths.

    `stem` is a path without suffix, to which each format's suffix is appended; frames become a
    folder of this name. A png of several frames shows them side by side. `crf` is that of
    `write_mp4`.
    """
    check_formats(formats, fps)
    paths = []
    for name in formats:
        path = video_path(stem, name)
        if name == "mp4":
            write_mp4(path, frames, fps, crf)
        elif name == "gif":
            write_gif(path, frames, fps)
        elif name == "png":
            write_png(path, np.concatenate(list(frames), axis=1))
        else:
            write_frames(path, frames, fps, FRAME_FORMATS[name])
        paths.append(path)
    return paths


def file_stems(names: Sequence[str]) -> dict[str, str]:
    """A unique file stem per name, made from its words; names with the same words are numbered."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    latest: dict[str, int] = {}  # number of the latest name with the same words
    for name in names:
        words = re.sub(r"\W+", "_", name[: 8 * _NAME_BYTES]).strip("_").encode()[:_NAME_BYTES]
        stem = words.decode(errors="ignore").rstrip("_") or "prompt"
        number = latest.get(stem.casefold(), 0) + 1
        while (numbered := stem if number == 1 else f"{stem}_{number}").casefold() in taken:
            number += 1
        latest[stem.casefold()] = number
        taken.add(numbered.casefold())
        stems[name] = numbered
    return stems


def write_mp4(path: str | Path, frames: np.ndarray, fps: float = 8.0, crf: int = 8) -> None:
    """Write `frames` (F, H, W, 3) uint8 as H.264; H and W must be even (4:2:0 chroma).

    Colours are converted by BT.709 at every size, and the file says so. `crf` is x264's constant
    rate factor: 0 is lossless, 8 visually lossless, 23 x264's default. Raises ValueError for
    another shape, dtype or rate, OSError when the file cannot be written.
    """
    _check_frames(frames)
    write_mp4_frames(path, frames, frames.shape[1:3], fps, crf)


def write_mp4_frames(
    path: str | Path,
    frames: Iterable[np.ndarray],
    size: tuple[int, ...],
    fps: float,
    crf: int = 8,
) -> None:
    """As `write_mp4`, of frames (H, W, 3) uint8 that are taken one after another.

    `size` is their (H, W).
    """
    check_formats(["mp4"], fps)
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"`frames` must have even sides for H.264, got {height}x{width}.")
    rate = Fraction(fps).limit_denominator(1001)  # 29.97 is 2997/100: timestamps do not drift
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate)]
    # One thread: small frames gain nothing from more, and several files are written at a time.
    target = ["-vf", _TO_BT709, "-c:v", "libx264", "-crf", str(crf), "-preset", "veryfast"]
    target += ["-threads", "1", "-movflags", "+faststart", "-f", "mp4"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, "-i", "-", *target]
    _write_whole(path, lambda temporary: _feed([*command, f"file:{temporary}"], frames))


def _feed(command: Sequence[str], frames: Iterable[np.ndarray]) -> None:
    """Run ffmpeg with these frames as its input; OSError has its first message."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with suppress(BrokenPipeError), process.stdin as stdin:  # it says why it has ended
                for frame in frames:
                    stdin.write(np.ascontiguousarray(frame).reshape(-1).data)
        except BaseException:
            process.kill()
            raise
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise OSError(lines[0] if lines else _end_of_process(process.returncode))


def write_gif(path: str | Path, frames: np.ndarray, fps: float = 8.0) -> None:
    """Write `frames` (F, H, W, 3) uint8 as an endlessly looping gif.

    A gif counts in hundredths of a second: the delays of the frames differ by one where needed, so
    that the whole has the right length. Many players show a frame of one hundredth for ten, so
    rates above 50 may look slow. Raises ValueError for more than 100 frames a second, OSError when
    the file cannot be written.
    """
    check_formats(["gif"], fps)
    _check_frames(frames)
    ends = np.floor(np.arange(len(frames) + 1) * 100 / fps + 0.5).astype(int)
    first, *others = (Image.fromarray(frame) for frame in frames)
    options = {"save_all": True, "append_images": others, "loop": 0, "disposal": 1}
    _write_image(path, first, "GIF", duration=(np.diff(ends) * 10).tolist(), **options)


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write `image` (H, W, 3) uint8 as a png. Raises OSError when it cannot be written."""
    _write_image(path, Image.fromarray(image), "PNG")


def write_frames(
    folder: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    image_format: str = "png",
    quality: int = 95,
) -> None:
    """Write frames (H, W, 3) uint8 as the images 000000.png, 000001.png, ... of a new `folder`.

    A hidden file beside them has the frames per second.

    Args:
        frames: taken one after another.
        image_format: png or jpg.
        quality: of jpg, 1 to 95.
    Raises:
        WriteError: an image cannot be written; `folder` is as it was.
    """
    options: dict[str, Any] = {}
    if image_format == "jpg":
        options = {"quality": quality, "subsampling": 0}
    with atomic_folder(folder) as partial:
        for number, frame in enumerate(frames):
            encoded = _encoded(Image.fromarray(frame), _IMAGE_FORMATS[image_format], **options)
            (partial / f"{number:06d}.{image_format}").write_bytes(encoded)
        (partial / FRAME_RATE).write_text(f"{fps:.10g}\n", encoding="utf-8")


def _write_image(path: str | Path, image: Image.Image, image_format: str, **options: Any) -> None:
    encoded = _encoded(image, image_format, **options)
    _write_whole(path, lambda temporary: temporary.write_bytes(encoded))


def _encoded(image: Image.Image, image_format: str, **options: Any) -> memoryview:
    """The bytes of a file. It is encoded in memory because Pillow does not notice a short write."""
    encoded = io.BytesIO()
    image.save(encoded, format=image_format, **options)
    return encoded.getbuffer()


def _write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file that becomes `path`, or raise WriteError."""
    try:
        with atomic_file(path) as temporary:
            write(temporary)
    except WriteError:
        raise
    except OSError as error:  # ffmpeg's message has no errno
        raise WriteError(0, str(error), str(path)) from error


def _end_of_process(status: int) -> str:
    """Why a process ended without a message."""
    if status == -signal.SIGXFSZ:
        return os.strerror(errno.EFBIG)
    return f"ffmpeg ended with status {status}"


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"`frames` must be (F, H, W, 3) uint8 with F >= 1, got {frames.shape} {frames.dtype}."
        )


def contact_sheet(
    videos: Sequence[np.ndarray], titles: Sequence[str], columns: int = 8
) -> np.ndarray:
    """An image (H', W', 3) uint8 with a row per video: its title and `columns` of its frames.

    The frames are evenly spaced; a video of fewer frames shows all of them. `videos` are
    (F, H, W, 3) uint8. Raises ValueError unless they have the same shape and a title each.
    """
    if not videos or len(videos) != len(titles):
        raise ValueError(
            f"`videos` ({len(videos)}) and `titles` ({len(titles)}) must pair up and not be empty."
        )
    shapes = {video.shape for video in videos}
    if len(shapes) > 1:
        raise ValueError(f"`videos` must have the same shape, got {sorted(shapes)}.")
    num_frames, height, width, _ = videos[0].shape
    shown = np.unique(np.linspace(0, num_frames - 1, columns).round().astype(int))
    row_height = height + _LABEL_HEIGHT + _MARGIN
    size = (len(shown) * (width + _MARGIN) + _MARGIN, len(videos) * row_height + _MARGIN)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, (video, title) in enumerate(zip(videos, titles, strict=True)):
        top = _MARGIN + row * row_height
        draw.text((_MARGIN, top), title, fill=_LABEL_COLOUR)
        for column, frame in enumerate(shown):
            left = _MARGIN + column * (width + _MARGIN)
            sheet.paste(Image.fromarray(video[frame]), (left, top + _LABEL_HEIGHT))
    return np.asarray(sheet)
