"""Judge generated videos: `calc_metrics.py real=FOLDER generated=FOLDER [key=value ...]`.

    python scripts/calc_metrics.py real=videos generated=outputs/ucf101/samples
    python scripts/calc_metrics.py real=outputs/all_steps generated=outputs/cached \\
        "metrics=[psnr,ssim,lpips_alexnet]"

    python scripts/calc_metrics.py generated=outputs/t2v clip_model=clip-vit-base-patch32 \\
        captions=prompts.csv "metrics=[clip_score]"

FVD, by default with the protocol of the paper. Features are kept, so that an interrupted run goes
on, and a second run with the same real videos looks at the generated ones alone. The inception
score of videos and the CLIP score of videos and prompts look at the generated set alone. PSNR, SSIM
and LPIPS compare videos of the same names. Several devices, for FVD: `msrun --worker_num=8
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
from latte_ms.data.captions import read_captions
from latte_ms.data.video_file import DecodeError
from latte_ms.metrics.clip.folder import weights_of
from latte_ms.metrics.clip_score import CLIPDetector, clip_score
from latte_ms.metrics.comparison import PairMetric, compare
from latte_ms.metrics.detectors import C3DDetector, I3DDetector
from latte_ms.metrics.fvd import fvd
from latte_ms.metrics.images import IMAGE_METRICS, image_scores
from latte_ms.metrics.packages import fetched
from latte_ms.metrics.pairs import PerceptualDistance, psnr, ssim
from latte_ms.metrics.recipe import CLIP_SCORE, FVD, PAIRED, VIDEO_IS, MetricsRecipe
from latte_ms.metrics.video_inception import video_inception_score
from latte_ms.runtime import Rank
from latte_ms.terminal import say

DEFAULT_RECIPE = "configs/metrics.yaml"
# The weights that a metric needs, by their names in `fetch_detectors.py`.
WEIGHTS = {
    **{FVD: "i3d", VIDEO_IS: "c3d"},
    **dict.fromkeys(IMAGE_METRICS, "inception"),
    **{name: name for name in PAIRED if name.startswith("lpips")},
}


def main(arguments: list[str] | None = None) -> None:
    recipe = parse(MetricsRecipe, arguments, __doc__, default=DEFAULT_RECIPE)
    with exit_on_error(DecodeError):
        check_files(recipe)
        rank = runtime.setup(recipe.runtime)
        record: dict[str, Any] = {}
        if FVD in recipe.metrics:
            record[FVD] = distance(recipe, rank)
        if VIDEO_IS in recipe.metrics:
            record[VIDEO_IS] = score_of_classes(recipe, rank)
        if CLIP_SCORE in recipe.metrics:
            record[CLIP_SCORE] = score_of_prompts(recipe, rank)
        record.update(scores_of_frames(recipe, rank))
        if rank.is_first:
            record.update(comparisons(recipe))
            if recipe.output is not None:
                with atomic_file(Path(recipe.output)) as temporary:
                    temporary.write_text(json.dumps(record, indent=1) + "\n")


def check_files(recipe: MetricsRecipe) -> None:
    """Raise FileNotFoundError or ValueError for files that any of the metrics will not find."""
    for name in recipe.metrics:
        if name in WEIGHTS and (name != FVD or recipe.detector is None):
            fetched(WEIGHTS[name])
    if recipe.clip_model is not None:
        weights_of(recipe.clip_model)
    if recipe.captions is not None:
        read_captions(recipe.captions)


def distance(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """FVD, with all that the figure depends on."""
    found = fvd(
        recipe.needed("real"),
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


def score_of_classes(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """The inception score of videos."""
    found = video_inception_score(
        recipe.generated,
        protocol=recipe.chosen_protocol(),
        kind=recipe.kind,
        detector=C3DDetector(),
        seed=recipe.seed,
        cache=recipe.cache,
        rank=rank,
    )
    if rank.is_first:
        say(str(found))
    return found.record()


def score_of_prompts(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """The CLIP score of videos and their prompts."""
    found = clip_score(
        recipe.generated,
        CLIPDetector(recipe.needed("clip_model")),
        recipe.captions,
        protocol=recipe.chosen_protocol(),
        image_size=recipe.image_size or 0,
        kind=recipe.kind,
        seed=recipe.seed,
        cache=recipe.cache,
        rank=rank,
    )
    if rank.is_first:
        say(str(found))
    return found.record()


def scores_of_frames(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """FID, KID and IS, as far as they are asked for."""
    asked = [name for name in recipe.metrics if name in IMAGE_METRICS]
    if not asked:
        return {}
    found = image_scores(
        recipe.needed("real"),
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
    values = compare(recipe.needed("real"), recipe.generated, measures, recipe.kind)
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
