"""Write frames to an H.264 mp4 file."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np


def write_mp4(path: str | Path, frames: np.ndarray, fps: float = 8.0, crf: int = 8) -> None:
    """Write `frames` (F, H, W, 3) uint8 to `path`; H and W must be even (4:2:0 chroma).

    `crf` is x264's constant rate factor: 0 is lossless, 23 its default, 8 hardly tells from the
    source. The file appears under its name only when it is whole. Raises ValueError for another
    shape or type, OSError with ffmpeg's words when it fails.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"`frames` must be (F, H, W, 3) uint8 with F >= 1, got {frames.shape} {frames.dtype}."
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"`frames` must have even sides for H.264, got {height}x{width}.")
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    coding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(crf), "-preset", "veryfast"]
    # One thread: small pictures gain nothing from more, and several files are written at a time.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, "-i", "-"]
    command += [*coding, "-threads", "1", "-movflags", "+faststart", "-f", "mp4", str(partial)]
    data = np.ascontiguousarray(frames).reshape(-1).data
    try:
        result = subprocess.run(command, input=data, capture_output=True, check=False)
        if result.returncode:
            reason = result.stderr.decode(errors="replace").strip().splitlines() or ["no reason"]
            raise OSError(f"{path}: cannot be written ({reason[0]}).")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
