"""Judge generated videos: `calc_metrics.py real=FOLDER generated=FOLDER [key=value ...]`.

    python scripts/calc_metrics.py real=videos generated=outputs/ucf101/samples
    python scripts/calc_metrics.py real=outputs/all_steps generated=outputs/cached \\
        "metrics=[psnr,ssim,lpips_alexnet]"

FVD, by default with the protocol of the paper. Features are kept, so that an interrupted run goes
on, and a second run with the same real videos looks at the generated ones alone. PSNR, SSIM and
LPIPS compare videos of the same names. Several devices, for FVD: `msrun --worker_num=8
--local_worker_num=8 --join=True scripts/calc_metrics.py real=... generated=...
runtime.distributed=true`. The weights of the networks: `fetch_detectors.py`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms import runtime
from latte_ms.atomic import atomic_file
from latte_ms.config import exit_on_error, parse
from latte_ms.data.video_file import DecodeError
from latte_ms.metrics.comparison import PairMetric, compare
from latte_ms.metrics.detectors import I3DDetector
from latte_ms.metrics.fvd import fvd
from latte_ms.metrics.images import IMAGE_METRICS, image_scores
from latte_ms.metrics.pairs import PerceptualDistance, psnr, ssim
from latte_ms.metrics.recipe import FVD, PAIRED, MetricsRecipe
from latte_ms.runtime import Rank
from latte_ms.terminal import say

DEFAULT_RECIPE = "configs/metrics.yaml"


def main(arguments: list[str] | None = None) -> None:
    recipe = parse(MetricsRecipe, arguments, __doc__, default=DEFAULT_RECIPE)
    with exit_on_error(DecodeError):
        rank = runtime.setup(recipe.runtime)
        record: dict[str, Any] = {}
        if FVD in recipe.metrics:
            record[FVD] = distance(recipe, rank)
        record.update(scores_of_frames(recipe, rank))
        if rank.is_first:
            record.update(comparisons(recipe))
            if recipe.output is not None:
                with atomic_file(Path(recipe.output)) as temporary:
                    temporary.write_text(json.dumps(record, indent=1) + "\n")


def distance(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """FVD, with all that the figure depends on."""
    found = fvd(
        recipe.real,
        recipe.generated,
        protocol=recipe.chosen_protocol(),
        kind=recipe.kind,
        detector=I3DDetector(recipe.detector),
        seed=recipe.seed,
        cache=recipe.cache,
        rank=rank,
    )
    if rank.is_first:
        say(f"{found}; protocol {recipe.protocol}")
    return {"protocol_name": recipe.protocol, **found.record()}


def scores_of_frames(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """FID, KID and IS, as far as they are asked for."""
    asked = [name for name in recipe.metrics if name in IMAGE_METRICS]
    if not asked:
        return {}
    found = image_scores(
        recipe.real,
        recipe.generated,
        asked,
        protocol=recipe.chosen_protocol(),
        kind=recipe.kind,
        seed=recipe.seed,
        cache=recipe.cache,
        rank=rank,
    )
    if rank.is_first:
        say(str(found))
    return {"frames": dataclasses.asdict(found)}


def comparisons(recipe: MetricsRecipe) -> dict[str, Any]:
    """The figures of all pairs of videos, and their means."""
    measures = {name: measure_of(name) for name in recipe.metrics if name in PAIRED}
    if not measures:
        return {}
    values = compare(recipe.real, recipe.generated, measures, recipe.kind)
    record = {}
    for name, videos in values.items():
        mean = float(np.mean(list(videos.values())))
        say(f"{name} {mean:.4f}: mean of {len(videos)} videos")
        record[name] = {"mean": mean, "videos": videos}
    return record


def measure_of(name: str) -> PairMetric:
    if name == "psnr":
        return psnr
    if name == "ssim":
        return ssim
    return PerceptualDistance("vgg16" if name == "lpips_vgg16" else "alexnet")


if __name__ == "__main__":
    main()
