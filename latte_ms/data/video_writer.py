"""Write frames to an H.264 mp4 file."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np


def write_mp4(path: str | Path, frames: np.ndarray, fps: float = 8.0, crf: int = 8) -> None:
    """Write `frames` (F, H, W, 3) uint8 to `path`; H and W must be even (4:2:0 chroma).

    `crf` is x264's constant rate factor: 0 is lossless, 23 its default, 8 hardly tells from the
    source. Raises ValueError for another shape or type, OSError when ffmpeg fails.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"`frames` must be (F, H, W, 3) uint8 with F >= 1, got {frames.shape} {frames.dtype}."
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"`frames` must have even sides for H.264, got {height}x{width}.")
    # Blocks of 16 are only a compatibility wish of old decoders: other sizes are written as they
    # are, never resized behind the caller's back.
    block = 16 if height % 16 == 0 and width % 16 == 0 else 2
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,
        macro_block_size=block,
        output_params=["-crf", str(crf), "-preset", "veryfast", "-threads", "1"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
