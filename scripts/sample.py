"""Sample videos from a trained Latte: `sample.py --config FILE [key=value ...]`.

Under `msrun` the videos are divided among the processes; a video does not depend on which
process samples it.
"""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from mindspore import Tensor

from latte_ms import runtime, weights
from latte_ms.adapters.state import load_adapters
from latte_ms.config import exit_on_error, parse
from latte_ms.diffusion import Step, denoise
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.latte_sampler import LatteSampler
from latte_ms.media import contact_sheet, file_stems, prepare_folder, save_video, write_png
from latte_ms.progress import progress
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.transformer.latte import Latte
from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder

_SHEET_ROWS = 32


def main(arguments: list[str] | None = None) -> None:
    recipe = parse(LatteRecipe, arguments, __doc__)
    with exit_on_error():
        recipe.check_files()
        prepare_folder(recipe.output)
        rank = runtime.setup(recipe.runtime)
        sampler = build(recipe)
    started = time.perf_counter()
    with exit_on_error():
        noise = invert(recipe, sampler) if recipe.inversion.video else None
        count = sample(recipe, sampler, rank, noise)
    seconds = time.perf_counter() - started
    say(f"{count} videos in {seconds:.0f} s, compilation included: {recipe.output}")


def build(recipe: LatteRecipe) -> LatteSampler:
    """The networks with their weights, ready to sample."""
    network = Latte(recipe.network, runtime.compute_dtype(recipe.runtime.precision), seed=None)
    weights.load(
        network,
        recipe.weights,
        recipe.entry,
        prefix=recipe.prefix,
        only_network=recipe.only_network,
    )
    load_adapters(network, recipe.adapters.lora, recipe.adapters.scales)
    autoencoder = load_autoencoder(recipe.vae, runtime.compute_dtype(recipe.vae_precision))
    embeddings = recipe.embeddings
    return LatteSampler(
        network,
        Codec(autoencoder, recipe.vae_chunk_frames),
        recipe.sampler,
        recipe.batch_size,
        None if embeddings is None else embeddings.unconditional,
    )


def invert(recipe: LatteRecipe, sampler: LatteSampler) -> Tensor:
    """The noise (1, F, C, h, w) that leads to the recipe's video."""
    frames, condition = recipe.source_video(sampler.codec.config.downsampling)
    run = sampler.begin_inversion(frames, condition)
    for _ in _with_bar(denoise(run), len(run.timesteps), "inverting"):
        pass
    return run.x


def sample(
    recipe: LatteRecipe, sampler: LatteSampler, rank: Rank, noise: Tensor | None = None
) -> int:
    """Sample and save this process's share of the videos; returns how many."""
    output, batch_size = Path(recipe.output), recipe.batch_size
    share = slice(rank.index, None, rank.count)
    names, seeds = recipe.condition_names[share], recipe.seeds[share]
    stems = file_stems(list(dict.fromkeys(recipe.condition_names)))
    titles = [  # also the stems of the files
        f"{stems[name]}_seed{seed}" if name else f"seed{seed}"
        for name, seed in zip(names, seeds, strict=True)
    ]
    shown: list[np.ndarray] = []
    for first in range(0, len(seeds), batch_size):
        part = slice(first, first + batch_size)
        conditions = [recipe.condition(name) for name in names[part]]
        run = sampler.begin(None if conditions[0] is None else conditions, seeds[part], noise)
        label = f"videos {first + 1} to {first + len(conditions)} of {len(seeds)}"
        for _ in _with_bar(denoise(run), len(run.timesteps), label):
            pass
        videos = sampler.decode(run.x, len(conditions))
        for title, video in zip(titles[part], videos, strict=True):
            save_video(output / title, video, recipe.formats, recipe.fps)
        shown += videos[: _SHEET_ROWS - len(shown)]
    if recipe.contact_sheet and shown:
        name = "contact_sheet.png" if rank.count == 1 else f"contact_sheet_{rank.index}.png"
        write_png(output / name, contact_sheet(shown, titles[: len(shown)]))
    return len(seeds)


def _with_bar(steps: Iterable[Step], total: int, label: str) -> Iterable[Step]:
    bar: Iterable[Step] = progress(steps, desc=label, total=total, unit="step", leave=False)
    return bar


if __name__ == "__main__":
    main()
