"""The frames of a video file that generation starts from."""

from pathlib import Path

import numpy as np

from latte_ms.data.video_file import DecodeError, index_video, read_frames
from latte_ms.data.windows import choose_frames, frames_needed


def check_source_video(name: str, path: str) -> None:
    """Raise FileNotFoundError, naming the option `name`, unless `path` is a file or empty."""
    if path and not Path(path).is_file():
        raise FileNotFoundError(f"`{name}` is not a file: {path}.")


def read_source_video(name: str, path: str, num_frames: int, interval: int) -> np.ndarray:
    """`num_frames` frames (F, H, W, 3) uint8 at a distance of `interval`, from the file's middle.

    Raises ValueError, naming the option `name`, for a file that cannot be decoded or has too few
    frames.
    """
    needed = frames_needed(num_frames, interval, "stride")
    try:
        index = index_video(path)
        if index.num_frames < needed:
            raise ValueError(
                f"`{name}` must have at least {needed} frames, for {num_frames} at an interval of "
                f"{interval}, got {index.num_frames}: {path}."
            )
        frame_numbers = choose_frames(index.num_frames, num_frames, interval, "stride", None)
        return read_frames(path, frame_numbers, index)
    except DecodeError as error:
        raise ValueError(f"`{name}` must be a video that can be decoded, got {error}") from error
