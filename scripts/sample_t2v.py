"""Sample from texts: `sample_t2v.py --config FILE [prompt="a cat" key=value ...]`.

Videos, pictures (`video_length=1`) or videos from a video (`video=FILE`), one file per video, named
after its prompt. `prompt=` and `prompts_file=` replace the prompts of the recipe. Under `msrun` the
prompts are divided among the processes; which process takes a prompt does not change its video. A
prompt that fails is reported at the end, after the others, those of other processes included.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from latte_ms import runtime
from latte_ms.config import exit_on_error, parse
from latte_ms.generation import schedulers
from latte_ms.generation.companions import Companions
from latte_ms.generation.output import prepare_folder, save_video
from latte_ms.generation.pipeline import LattePipeline
from latte_ms.generation.pipeline_generator import LatentGenerator
from latte_ms.generation.pipeline_video import LatteVideoToVideoPipeline
from latte_ms.generation.prompt_list import sample_each
from latte_ms.generation.t2v_recipe import T2VConfig, file_stems, source_frames
from latte_ms.runtime import Rank


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(T2VConfig, arguments, __doc__)
    with exit_on_error():
        cfg.check_files()
        prepare_folder(cfg.output)
        companions = Companions(cfg.output) if cfg.runtime.distributed else None
        rank = runtime.setup(cfg.runtime)
        options = call_options(cfg)
        pipeline = build(cfg)
        pipeline.check_inputs(prompt=cfg.all_prompts[0], **options)
        set_decoding(cfg, pipeline)
    begun = time.perf_counter()
    failed = sample(cfg, pipeline, options, rank)
    seconds = time.perf_counter() - begun
    done = len(cfg.all_prompts[rank.index :: rank.count]) - len(failed)
    print(f"{done} prompts in {seconds:.0f} s, compilation included: {cfg.output}", flush=True)
    for prompt, why in failed.items():
        print(f"failed: {prompt!r}: {why}", file=sys.stderr, flush=True)
    if companions is not None:
        companions.leave(wait=bool(failed))
    if failed:
        sys.exit(1)


def build(cfg: T2VConfig) -> LatentGenerator:
    """The pipeline with the scheduler of the recipe."""
    kind: type[LatentGenerator] = LatteVideoToVideoPipeline if cfg.video else LattePipeline
    pipeline = kind.from_pretrained(
        cfg.pipeline,
        mindspore_dtype=runtime.compute_dtype(cfg.runtime.precision),
        storage_dtype=cfg.storage_dtype,
        variant=cfg.variant or None,
        temporal_decoder=cfg.temporal_decoder,
        temporal_interpolation=cfg.temporal_interpolation,
        low_memory=cfg.low_memory,
        streamed_text_encoder=cfg.streamed_text_encoder,
        revision=cfg.revision or None,
        cache_dir=cfg.cache_dir or None,
    )
    if cfg.scheduler:
        pipeline.scheduler = schedulers.create(cfg.scheduler, pipeline.scheduler.config)
    return pipeline


def set_decoding(cfg: T2VConfig, pipeline: LatentGenerator) -> None:
    """How pictures pass the autoencoder, which is read for it. Raises ValueError."""
    if cfg.tile_size:
        pipeline.enable_vae_tiling(cfg.tile_size)
    if cfg.slicing:
        pipeline.enable_vae_slicing()


def call_options(cfg: T2VConfig) -> dict[str, Any]:
    """The arguments of every call but the prompt's."""
    options = {
        "num_inference_steps": cfg.num_steps,
        "timesteps": cfg.timesteps or None,
        "guidance_scale": cfg.guidance,
        "num_images_per_prompt": cfg.videos_per_prompt,
        "height": cfg.height,
        "width": cfg.width,
        "eta": cfg.eta,
        "generator": cfg.seed,
        "output_type": "np",
        "enable_temporal_attentions": cfg.temporal_attentions,
        "decode_chunk_size": cfg.decode_chunk_size,
    }
    if not cfg.video:
        return {**options, "video_length": cfg.video_length}
    return {**options, "video": source_frames(cfg), "strength": cfg.strength}


def sample(
    cfg: T2VConfig, pipeline: LatentGenerator, options: dict[str, Any], rank: Rank
) -> dict[str, str]:
    """Sample and save this process's share of the prompts; returns what failed, and why."""
    prompts, stems = cfg.all_prompts[rank.index :: rank.count], file_stems(cfg.all_prompts)
    pipeline.set_progress_bar_config(desc="steps", leave=False, position=1)
    texts = {
        "negative_prompt": cfg.negative_prompt,
        "guided": cfg.guidance > 1.0,
        "clean_caption": cfg.clean_caption,
        "mask_feature": cfg.mask_feature,
    }

    def save(prompt: str, videos: np.ndarray) -> None:
        for i, frames in enumerate((videos * 255).round().astype(np.uint8)):
            stem = Path(cfg.output) / f"{stems[prompt]}_seed{cfg.seed + i}"
            save_video(stem, frames, cfg.formats, cfg.fps)

    outcomes = sample_each(pipeline, prompts, texts, options, save)
    bar = tqdm(outcomes, desc="prompts", total=len(prompts), unit="prompt")
    return {prompt: repr(error).splitlines()[0] for prompt, error in bar if error}


if __name__ == "__main__":
    main()
