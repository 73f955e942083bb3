"""Two folders of videos compared pair by pair, such as the samples of two ways to compute them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from latte_ms.data.sources import Source
from latte_ms.metrics.clips import find_videos
from latte_ms.progress import progress

PairMetric = Callable[[np.ndarray, np.ndarray], float]


def compare(
    reference: str | Path,
    generated: str | Path,
    metrics: Mapping[str, PairMetric],
    kind: str = "auto",
) -> dict[str, dict[str, float]]:
    """Metric -> video -> value, for the videos of `reference` and those of their names.

    Args:
        reference, generated: folders of video files or of folders of images. A video has the name
            of its file without the suffix, relative to the folder.
        metrics: take two videos (F, H, W, 3) uint8.
        kind: as in `Clips`.
    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: the two folders do not hold videos of the same names, lengths and sizes.
        DecodeError: a video cannot be read.
    """
    first, second = (_by_name(Path(folder), kind) for folder in (reference, generated))
    alone = sorted(first.keys() ^ second.keys())
    if alone:
        raise ValueError(
            f"{reference} and {generated} must hold videos of the same names; {len(alone)} are in "
            f"one of them only: {', '.join(alone[:3])}{', ...' if len(alone) > 3 else '.'}"
        )
    values: dict[str, dict[str, float]] = {name: {} for name in metrics}
    for video in progress(first, unit="video", desc="comparing"):
        frames = [_whole(source) for source in (first[video], second[video])]
        if frames[0].shape != frames[1].shape:
            raise ValueError(
                f"{second[video].path} must be of {frames[0].shape} (frames, height, width, "
                f"channels) as {first[video].path}, got {frames[1].shape}."
            )
        for name, measure in metrics.items():
            values[name][video] = measure(*frames)
    return values


def _by_name(root: Path, kind: str) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for source in find_videos(root, kind):
        path = source.path.relative_to(root)
        name = path.as_posix() if source.path.is_dir() else path.with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{source.path} and {found[name].path} have one name: {name}.")
        found[name] = source
    return found


def _whole(source: Source) -> np.ndarray:
    return source.read(range(source.num_frames()))
