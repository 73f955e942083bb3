"""Judge generated videos: `calc_metrics.py real=FOLDER generated=FOLDER [key=value ...]`.

    python scripts/calc_metrics.py real=videos generated=outputs/ucf101_2048
    python scripts/calc_metrics.py real=outputs/all_steps generated=outputs/cached \\
        "metrics=[psnr,ssim,lpips_alexnet]"

    python scripts/calc_metrics.py generated=outputs/t2v clip_model=clip-vit-base-patch32 \\
        captions=prompts.csv "metrics=[clip_score]"

FVD, by default with the protocol of the paper. Features are kept, so that an interrupted run goes
on, and a second run with the same real videos looks at the generated ones alone. The inception
score of videos and the CLIP score of videos and prompts look at the generated set alone. PSNR, SSIM
and LPIPS compare videos of the same names. Several devices, for all but these three, which the
first process computes: `msrun --worker_num=8 --local_worker_num=8 --join=True
scripts/calc_metrics.py real=... generated=... runtime.distributed=true`. The weights of the
networks: `fetch_detectors.py`.
"""

import json
import math
import tempfile
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
from latte_ms.metrics.clips import find_videos
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
        for measure in (distance, score_of_classes, score_of_prompts, scores_of_frames):
            keep(recipe, rank, record, measure(recipe, rank))
        if rank.is_first:
            keep(recipe, rank, record, comparisons(recipe))


def keep(recipe: MetricsRecipe, rank: Rank, record: dict[str, Any], found: dict[str, Any]) -> None:
    """Add what was found to the record, and replace the file `output` by it."""
    record.update(found)
    if found and rank.is_first and recipe.output is not None:
        with atomic_file(recipe.output) as temporary:
            text = json.dumps(plain(record), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """A value for JSON, which has no infinite numbers: they become "Infinity" and "-Infinity"."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def check_files(recipe: MetricsRecipe) -> None:
    """Raise FileNotFoundError, ValueError or OSError for files that the metrics cannot work with.

    They are those that any of the metrics will not find, and an `output` that cannot be written.
    """
    for name in recipe.metrics:
        if name in WEIGHTS and (name != FVD or recipe.detector is None):
            fetched(WEIGHTS[name])
    detector = recipe.detector if FVD in recipe.metrics else None
    if detector is not None and not Path(detector).is_file():
        raise FileNotFoundError(f"`detector` is not a file: {detector}.")
    if recipe.clip_model is not None:
        weights_of(recipe.clip_model)
    if recipe.captions is not None:
        read_captions(recipe.captions)
    if recipe.needs_real:
        find_videos(Path(recipe.needed("real")), recipe.kind, "real")
    find_videos(Path(recipe.generated), recipe.kind, "generated")
    if recipe.output is not None:
        check_output(Path(recipe.output))


def check_output(path: Path) -> None:
    """Raise ValueError or OSError where no file `path` can be written; make its folder."""
    if path.is_dir():
        raise ValueError(f"`output` must be a file, got the folder {path}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(
            f"`output` must be a file in a folder that can be written to, got {path}: "
            f"{error.strerror}."
        ) from error


def distance(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """FVD, with all that the figure depends on."""
    if FVD not in recipe.metrics:
        return {}
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
    return {FVD: {"protocol_name": recipe.protocol, **found.record()}}


def score_of_classes(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """The inception score of videos."""
    if VIDEO_IS not in recipe.metrics:
        return {}
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
    return {VIDEO_IS: {"protocol_name": recipe.protocol, **found.record()}}


def score_of_prompts(recipe: MetricsRecipe, rank: Rank) -> dict[str, Any]:
    """The CLIP score of videos and their prompts."""
    if CLIP_SCORE not in recipe.metrics:
        return {}
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
    return {CLIP_SCORE: {"protocol_name": recipe.protocol, **found.record()}}


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
    return {"frames": {"protocol_name": recipe.protocol, **found.record()}}


def comparisons(recipe: MetricsRecipe) -> dict[str, Any]:
    """The figures of all pairs of videos, and their means."""
    measures = {name: measure_of(name) for name in recipe.metrics if name in PAIRED}
    if not measures:
        return {}
    values = compare(recipe.needed("real"), recipe.generated, measures, recipe.kind)
    record: dict[str, Any] = {}
    for name, videos in values.items():
        mean = float(np.mean(list(videos.values())))
        say(f"{name} {mean:.4f}: mean of {len(videos)} videos")
        record[name], measure = {"mean": mean, "videos": videos}, measures[name]
        if isinstance(measure, PerceptualDistance):
            record[name]["detector"] = measure.identity
    return record


def measure_of(name: str) -> PairMetric:
    if name == "psnr":
        return psnr
    if name == "ssim":
        return ssim
    return PerceptualDistance("vgg16" if name == "lpips_vgg16" else "alexnet")


if __name__ == "__main__":
    main()
