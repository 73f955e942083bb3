"""Sample from prompts: `sample_t2v.py [--config FILE] [prompt="a cat" key=value ...]`.

Videos, images (`video_length=1`) or videos from a video (`video=FILE`), one file per video and
format, named after its prompt and seed. `prompt=` and `prompts_file=` replace the prompts of the
recipe. Without `--config` a small network that comes with the package draws moving shapes, such as
`prompt="a red star moving up"`.

A run that was stopped goes on when the same command is given again: prompts whose files are there
are left out. A folder takes any prompts and seeds, under the other settings that `samples.json` in
it records.

Under `msrun` the prompts are divided among the processes; which process samples a prompt does not
change its video. Each process lists its failed prompts at its end, and waits for the others.
"""

import dataclasses
import sys
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latte_ms import runtime, schedulers
from latte_ms.config import exit_on_error, parse
from latte_ms.generation.pipelines.folder import trained_transformer
from latte_ms.generation.pipelines.latte import LattePipeline, Output, PromptPipeline
from latte_ms.generation.pipelines.request import TextRequest
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline
from latte_ms.generation.sample_folder import SampleFolder, SampleRecord
from latte_ms.generation.text_recipe import TextToVideoRecipe
from latte_ms.media import file_stems, prepare_folder, to_uint8
from latte_ms.messages import one_line, shown
from latte_ms.parallel.barrier import Barrier
from latte_ms.progress import progress
from latte_ms.terminal import say
from latte_ms.weights.checksums import quick_fingerprint

if TYPE_CHECKING:  # the package is the first to import MindSpore
    import mindspore as ms

DEFAULT_RECIPE = "configs/shapes/t2v.yaml"


def main(arguments: list[str] | None = None) -> None:
    recipe = parse(TextToVideoRecipe, arguments, __doc__, default=DEFAULT_RECIPE)
    with ExitStack() as stack:
        with exit_on_error():
            recipe.check_files()
            prepare_folder(recipe.output)
            barrier = Barrier(recipe.output) if recipe.runtime.distributed else None
            rank = runtime.setup(recipe.runtime)
            folder = stack.enter_context(SampleFolder(recipe.output, recipe.files, rank))
            # Made now if possible, so that a video that is too short is reported
            # before anything is loaded; so is a folder of other settings.
            requests = recipe.requests() if recipe.can_request_at_once else {}
            names = names_of(recipe, requests)
            folder.check(lambda: record_of(recipe, names), chain(*names.values()))
            pipeline = build(recipe)
            requests = requests or recipe.requests(pipeline.limits().video_length)
            pipeline.check(next(iter(requests.values())))
            names = names_of(recipe, requests)
            folder.begin(lambda: record_of(recipe, names), chain(*names.values()))
        start = time.perf_counter()
        share = dict(list(requests.items())[rank.index :: rank.count])
        left = {p: r for p, r in share.items() if not all(map(folder.has, names[p]))}
        failed = sample(pipeline, left, folder, names, len(share))
        seconds = time.perf_counter() - start
        done = len(left) - len(failed)
        say(f"{done} prompts in {seconds:.0f} s, compilation included: {recipe.output}")
        for prompt, reason in failed.items():
            say(f"failed: {shown(prompt)}: {reason}", error=True)
        if barrier is not None:
            barrier.leave(wait=True)
    if failed:
        sys.exit(1)


def build(recipe: TextToVideoRecipe) -> PromptPipeline:
    """The pipeline with the adapters, scheduler, tiling and slicing of the recipe.

    Raises ValueError or OSError for a folder that does not fit.
    """
    pipeline_class: type[PromptPipeline] = (
        LatteVideoToVideoPipeline if recipe.video else LattePipeline
    )
    dtype = runtime.compute_dtype(recipe.runtime.precision)
    pipeline = pipeline_class.from_pretrained(
        recipe.pipeline,
        mindspore_dtype=dtype,
        parameter_dtype=recipe.parameter_dtype,
        variant=recipe.variant or None,
        temporal_decoder=recipe.temporal_decoder,
        temporal_interpolation=recipe.temporal_interpolation,
        low_memory=recipe.low_memory,
        streamed_text_encoder=recipe.streamed_text_encoder,
        revision=recipe.revision or None,
        cache_dir=recipe.cache_dir or None,
        **other_transformer(recipe, dtype),
    )
    for name in recipe.adapters.lora:
        pipeline.load_lora_weights(name)
    if recipe.adapters.lora:
        pipeline.set_adapters(pipeline.get_list_adapters()["transformer"], recipe.adapters.scales)
    trained_settings = recipe.trained_settings
    if recipe.scheduler or trained_settings:
        name = recipe.scheduler or type(pipeline.scheduler).__name__
        pipeline.scheduler = schedulers.create(name, pipeline.scheduler.config, **trained_settings)
    if recipe.tile_size:
        pipeline.enable_vae_tiling(recipe.tile_size)
    if recipe.slicing:
        pipeline.enable_vae_slicing()
    return pipeline


def other_transformer(recipe: TextToVideoRecipe, dtype: "ms.Type") -> dict[str, Any]:
    """The recipe's `transformer`, if it names one, as an argument of `from_pretrained`."""
    if not recipe.transformer:
        return {}
    positions = recipe.temporal_interpolation
    return {
        "transformer": trained_transformer(
            recipe.transformer, recipe.entry, dtype, recipe.parameter_dtype, positions
        )
    }


def names_of(recipe: TextToVideoRecipe, requests: dict[str, TextRequest]) -> dict[str, list[str]]:
    """The names of the files of each prompt's videos, without suffixes."""
    stems = file_stems(recipe.all_prompts)
    return {
        prompt: [f"{stems[prompt]}_seed{recipe.seed + i}" for i in range(request.num_videos)]
        for prompt, request in requests.items()
    }


def record_of(recipe: TextToVideoRecipe, names: dict[str, list[str]]) -> SampleRecord:
    """What the videos depend on besides their prompts and seeds, which their names state.

    Of a pipeline of the hub that is its id and revision, of files and folders a checksum.
    """
    keys = (
        *("revision", "variant", "entry", "scheduler", "parameter_precision", "tile_size"),
        *("temporal_interpolation", "temporal_decoder", "frame_interval"),
    )
    sources = {key: getattr(recipe, key) for key in ("pipeline", "transformer", "video")}
    settings = {
        **{key: checksum(path) for key, path in sources.items()},
        "lora": {name: checksum(name) for name in recipe.adapters.lora},
        "lora_scale": recipe.adapters.scales,
        "runtime": {key: getattr(recipe.runtime, key) for key in ("device", "precision")},
        **{key: getattr(recipe, key) for key in keys},
        **dataclasses.asdict(recipe.options),
        **dataclasses.asdict(recipe.files),
    }
    prompts = {name: prompt for prompt, some in names.items() for name in some}
    return SampleRecord(settings, sources, names=prompts)


def checksum(source: str) -> str:
    """Of a file or folder; the id of the hub, or nothing, as it is."""
    return quick_fingerprint(Path(source)) if source and Path(source).exists() else source


def sample(
    pipeline: PromptPipeline,
    requests: dict[str, TextRequest],
    folder: SampleFolder,
    names: dict[str, list[str]],
    total: int,
) -> dict[str, str]:
    """Sample and save the videos of each request; returns the prompts that failed, and why.

    `total` is the number of prompts of this process, finished ones included, for the bar.
    """
    pipeline.set_progress_bar_config(desc="steps", leave=False, position=1)

    def save(prompt: str, result: Output) -> None:
        for name, frames in zip(names[prompt], to_uint8(result[0]), strict=True):  # in [0, 1]
            folder.save(name, frames)

    results = pipeline.generate_each(requests, save)
    there = total - len(requests)
    bar = progress(results, desc="prompts", total=total, initial=there, unit="prompt")
    return {
        prompt: one_line(f"{type(error).__name__}: {error}", 300)
        for prompt, error in bar
        if error is not None
    }


if __name__ == "__main__":
    main()
