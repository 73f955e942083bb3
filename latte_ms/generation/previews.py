"""Small videos of the same noise and conditions, again and again, while weights change."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor

from latte_ms.generation.latte_sampler import Condition, LatteSampler
from latte_ms.media import contact_sheet, write_mp4, write_png

_COLUMNS = 4  # of the mp4
_FPS = 8.0


class Previews:
    """Writes videos of a network that follows other parameters.

    Args:
        sampler: of a network of its own, whose weights are replaced.
        conditions: one per video; None for an unconditional network.
        seeds: one per video.
        titles: one per video, for the contact sheet.
    Raises:
        ValueError: conditions do not fit the network, or the seeds.
    """

    def __init__(
        self,
        sampler: LatteSampler,
        conditions: Sequence[Condition] | None,
        seeds: Sequence[int],
        titles: Sequence[str],
    ) -> None:
        sampler.check_conditions(conditions, len(seeds))
        self.sampler = sampler
        self.conditions, self.seeds, self.titles = conditions, seeds, titles

    def write(self, stem: Path, weights: Mapping[str, Parameter]) -> list[Path]:
        """Sample with values under the names of the network; the mp4 of all videos and the png.

        `stem` is a path without suffix. Raises WriteError.
        """
        for name, parameter in self.sampler.network.parameters_and_names():
            parameter.set_data(Tensor(weights[name].asnumpy()))
        videos = list(self.sampler(self.conditions, self.seeds))
        paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("mp4", "png")]
        write_mp4(paths[0], tiled(videos), _FPS)
        write_png(paths[1], contact_sheet(videos, self.titles))
        return paths


def tiled(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos (F, H, W, 3) uint8 in rows of up to 4, one after the other; missing ones are black."""
    columns = min(len(videos), _COLUMNS)
    missing = [np.zeros_like(videos[0])] * (-len(videos) % columns)
    all_videos = [*videos, *missing]
    rows = [
        np.concatenate(all_videos[first : first + columns], axis=2)
        for first in range(0, len(all_videos), columns)
    ]
    return np.concatenate(rows, axis=1)
