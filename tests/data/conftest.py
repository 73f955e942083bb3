"""Videos made for the tests: every frame shows its own number, so a reader is tested by the frames
it returns and not against another reader."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from examples.moving_shapes.shapes import write_shapes

SIDE = 64
_BITS = 8


def numbered_frame(number: int, width: int = SIDE) -> np.ndarray:
    """(SIDE, width, 3) uint8: `number` in binary, as 8 black or white cells in the middle."""
    bits = (number >> np.arange(_BITS)) & 1
    cells = (bits.reshape(2, 4) * 200 + 20).astype(np.uint8)
    square = np.kron(cells, np.ones((SIDE // 2, SIDE // 4), np.uint8))
    frame = np.full((SIDE, width), 110, np.uint8)
    left = (width - SIDE) // 2
    frame[:, left : left + SIDE] = square
    return np.repeat(frame[..., None], 3, axis=-1)


def read_number(frame: np.ndarray) -> int:
    """The number in a frame that `numbered_frame` drew, after compression."""
    left = (frame.shape[1] - SIDE) // 2
    grey = frame.astype(np.float64).mean(-1)[:, left : left + SIDE]
    cells = grey.reshape(2, SIDE // 2, 4, SIDE // 4).mean((1, 3)).ravel()
    return int(((cells > 120) << np.arange(_BITS)).sum())


def encode(path: Path, frames: list[np.ndarray], *options: str, rate: int = 25) -> Path:
    """Write `frames` to `path` by the ffmpeg program with these output options."""
    height, width = frames[0].shape[:2]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    data = b"".join(frame.tobytes() for frame in frames)
    subprocess.run([*command, *options, str(path)], input=data, check=True)
    return path


def convert(source: Path, target: Path, *options: str, before: tuple[str, ...] = ()) -> Path:
    """Copy `source` to `target` by the ffmpeg program; `before` are input options."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *before, "-i", str(source)]
    subprocess.run([*command, *options, str(target)], check=True)
    return target


def generate(path: Path, *options: str, source: str = "testsrc2=s=128x96:r=25:d=1") -> Path:
    """Write a film of one of ffmpeg's test sources, 25 frames by default."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
    subprocess.run([*command, *options, str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


def decode_by_ffmpeg(path: Path, height: int, width: int, *options: str) -> np.ndarray:
    """All frames as the ffmpeg program decodes them, (F, height, width, 3) uint8."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", *options]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)


H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-crf", "12")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moving-shapes set, 6 videos per class."""
    target = tmp_path_factory.mktemp("shapes")
    assert len(list(write_shapes(target, videos_per_class=6, seed=5))) == 48
    return target


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of numbered videos: 3 of 20 frames in `ants`, 2 of 12 frames in `bees`."""
    root = tmp_path_factory.mktemp("classes")
    for name, count, length in (("ants", 3, 20), ("bees", 2, 12)):
        (root / name).mkdir()
        for i in range(count):
            frames = [numbered_frame(n, width=96) for n in range(length)]
            encode(root / name / f"{i}.mp4", frames, *H264)
    (root / "captions.csv").write_text("path,caption\n")
    (root / ".hidden").mkdir()
    return root


@pytest.fixture
def write_frames() -> Callable[[Path, int], Path]:
    """Write a folder of numbered images: frame_0.png, frame_1.png, ..."""

    def write(folder: Path, count: int) -> Path:
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(numbered_frame(number)).save(folder / f"frame_{number}.png")
        return folder

    return write
