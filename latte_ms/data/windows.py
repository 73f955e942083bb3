"""Which frames of a video make a clip."""

import numpy as np

SPACINGS = ("stride", "linspace")


def frames_needed(num_frames: int, interval: int, spacing: str) -> int:
    """The minimum length of a video that yields `num_frames`.

    `stride` takes every `interval`-th frame exactly. `linspace` spaces the frames evenly over
    `num_frames * interval` frames, or over the whole of a shorter video, so its steps vary.
    """
    return (num_frames - 1) * interval + 1 if spacing == "stride" else num_frames


def choose_frames(
    length: int,
    num_frames: int,
    interval: int,
    spacing: str,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """Ascending frame numbers (num_frames,) of a clip in one window of a video of `length` frames.

    The start of the window is drawn uniformly from `rng`, the last possible one included; without
    `rng` the window is the middle one. `length` must be at least `frames_needed`.
    """
    needed = frames_needed(num_frames, interval, spacing)
    if length < needed:
        raise ValueError(f"`length` (={length}) must be at least {needed}.")
    span = needed if spacing == "stride" else min(num_frames * interval, length)
    num_starts = length - span + 1
    start = (num_starts - 1) // 2 if rng is None else int(rng.integers(num_starts))
    if spacing == "stride":
        return start + np.arange(num_frames) * interval
    return np.linspace(start, start + span - 1, num_frames, dtype=np.int64)
