"""Sample videos from a trained Latte: `sample.py --config FILE [key=value ...]`.

Under `msrun` the videos are divided among the processes; which process makes a video does not
change it.
"""

import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latte_ms import runtime, weights
from latte_ms.config import exit_on_error, parse
from latte_ms.generation.class_to_video import ClassToVideo
from latte_ms.generation.output import contact_sheet, prepare_folder, save_video
from latte_ms.generation.recipe import SampleConfig
from latte_ms.runtime import Rank
from latte_ms.transformer.latte import Latte
from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder

_SHEET_ROWS = 32


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(SampleConfig, arguments, __doc__)
    with exit_on_error():
        prepare_folder(cfg.output)
        rank = runtime.setup(cfg.runtime)
        pipeline = build(cfg)
    begun = time.perf_counter()
    with exit_on_error():
        count = sample(cfg, pipeline, rank)
    seconds = time.perf_counter() - begun
    print(f"{count} videos in {seconds:.0f} s, compilation included: {cfg.output}")


def build(cfg: SampleConfig) -> ClassToVideo:
    """Networks with their weights, ready to sample."""
    dtype = runtime.compute_type(cfg.runtime.precision)
    network = Latte(cfg.network, dtype, None)
    weights.load(network, cfg.weights, cfg.entry)
    autoencoder = load_autoencoder(cfg.vae, runtime.compute_type(cfg.vae_precision))
    return ClassToVideo(network, Codec(autoencoder, cfg.vae_frames), cfg.sampler, cfg.batch_size)


def sample(cfg: SampleConfig, pipeline: ClassToVideo, rank: Rank) -> int:
    """Sample and save this process's share of the videos; returns how many."""
    output = Path(cfg.output)
    share = slice(rank.index, None, rank.count)
    labels, seeds = cfg.labels, cfg.seeds[share]
    labels = None if labels is None else labels[share]
    titles = [
        f"seed{seed}" if labels is None else f"{labels[i]}_seed{seed}"
        for i, seed in enumerate(seeds)
    ]
    batches = -(-len(seeds) // cfg.batch_size)
    shown: list[np.ndarray] = []
    steps = batches * cfg.sampler.schedule().num_steps
    with tqdm(total=steps, desc="sampling", unit="step") as bar:
        videos = pipeline(labels, seeds, lambda step: bar.update() and None)
        for title, video in zip(titles, videos, strict=True):
            save_video(output / title, video, cfg.formats, cfg.fps)
            if len(shown) < _SHEET_ROWS:
                shown.append(video)
    if cfg.contact_sheet and shown:
        name = "contact_sheet.png" if rank.count == 1 else f"contact_sheet_{rank.index}.png"
        contact_sheet(shown, titles[: len(shown)]).save(output / name)
    return len(seeds)


if __name__ == "__main__":
    main()
