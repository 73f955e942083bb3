"""Sample videos from a trained Latte: `sample.py --config FILE [key=value ...]`.

    python scripts/sample.py --config configs/ucf101/sample.yaml weights=ucf101.pt "classes=[3,14]"
    msrun --worker_num=8 --local_worker_num=8 --join=True scripts/sample.py \\
        --config configs/ucf101/sample_2048.yaml weights=ucf101.pt runtime.distributed=true

A run that was stopped goes on when the same command is given again: finished videos stay, the
others are as they would have been. A folder takes the videos of one recipe, which `samples.json` in
it records, and more of them with a larger `num_videos`. Under `msrun` the videos are divided among
the processes; a video does not depend on which process samples it.
"""

import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latte_ms import runtime, weights
from latte_ms.adapters.state import adapters_of, load_adapters
from latte_ms.config import exit_on_error, parse
from latte_ms.diffusion import denoise
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.latte_sampler import LatteSampler
from latte_ms.generation.sample_folder import SHEET, SampleFolder, SampleRecord
from latte_ms.media import contact_sheet, prepare_folder, write_png
from latte_ms.parallel.barrier import Barrier
from latte_ms.progress import progress
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.transformer.latte import Latte
from latte_ms.vae.codec import Codec
from latte_ms.weights.checksums import digest, fingerprint
from latte_ms.weights.network import contents
from latte_ms.weights.pretrained import load_autoencoder

if TYPE_CHECKING:  # the package is the first to import MindSpore
    from mindspore import Tensor

_SHEET_ROWS = 32


def main(arguments: list[str] | None = None) -> None:
    recipe = parse(LatteRecipe, arguments, __doc__)
    with exit_on_error(), ExitStack() as stack:
        recipe.check_files()
        prepare_folder(recipe.output)
        barrier = Barrier(recipe.output) if recipe.runtime.distributed else None
        rank = runtime.setup(recipe.runtime)
        folder = stack.enter_context(SampleFolder(recipe.output, recipe.files, rank))
        folder.check(lambda: record_of(recipe), recipe.stems)
        sampler = build(recipe)
        started = time.perf_counter()
        count = fill(recipe, sampler, folder, rank, barrier)
        seconds = time.perf_counter() - started
    say(f"{count} videos in {seconds:.0f} s, compilation included: {recipe.output}")


def build(recipe: LatteRecipe) -> LatteSampler:
    """The networks with their weights, ready to sample."""
    network = Latte(recipe.network, runtime.compute_dtype(recipe.runtime.precision), seed=None)
    fill_network(network, recipe)
    autoencoder = load_autoencoder(recipe.vae, runtime.compute_dtype(recipe.vae_precision))
    embeddings = recipe.embeddings
    return LatteSampler(
        network,
        Codec(autoencoder, recipe.vae_chunk_frames),
        recipe.sampler,
        recipe.batch_size,
        None if embeddings is None else embeddings.unconditional,
    )


def fill_network(network: Latte, recipe: LatteRecipe) -> None:
    """Give a network the weights of a recipe, with LoRA, in place of those that it may have.

    Raises ValueError or OSError for weights that do not fit.
    """
    adapters_of(network).unload()  # or they would act on the new weights, too
    weights.load(
        network,
        recipe.weights,
        recipe.entry,
        prefix=recipe.prefix,
        only_network=recipe.only_network,
    )
    load_adapters(network, recipe.adapters.lora, recipe.adapters.scales)


def record_of(recipe: LatteRecipe, sampler: LatteSampler | None = None) -> SampleRecord:
    """What the videos of a recipe depend on, with the checksums of the weights as they act.

    Without `sampler` those of the weights are left out: what is known before they are loaded.
    """
    sections = {key: dataclasses.asdict(getattr(recipe, key)) for key in ("network", "sampler")}
    keys = ("classes", "balanced_classes", "prompts", "seed", "file_names", "vae_precision")
    runtime_keys = ("device", "precision")
    settings: dict[str, Any] = {
        "text_embeddings": checksum(recipe.text_embeddings),
        "inversion": dataclasses.asdict(recipe.inversion)
        | {"video": checksum(recipe.inversion.video)},
        "runtime": {key: getattr(recipe.runtime, key) for key in runtime_keys},
        **sections,
        **{key: getattr(recipe, key) for key in keys},
        **dataclasses.asdict(recipe.files),
    }
    if sampler is not None:
        networks = {"weights": sampler.network, "vae": sampler.codec.autoencoder}
        settings |= {key: fingerprint(contents(network)) for key, network in networks.items()}
    lora = f" with {', '.join(recipe.adapters.lora)}" if recipe.adapters.lora else ""
    sources = {
        "weights": f"{recipe.weights}{lora}",
        "vae": recipe.vae,
        "text_embeddings": recipe.text_embeddings,
        "inversion.video": recipe.inversion.video,
    }
    return SampleRecord(settings, sources, recipe.count)


def checksum(path: str) -> str:
    """SHA-256 of a file; empty without one."""
    return digest(Path(path).expanduser()) if path else ""


def fill(
    recipe: LatteRecipe,
    sampler: LatteSampler,
    folder: SampleFolder,
    rank: Rank,
    barrier: Barrier | None = None,
) -> int:
    """This process's share of what the folder lacks; returns how many videos were sampled.

    The first process also makes the contact sheet, when all have left the barrier.
    """
    folder.begin(lambda: record_of(recipe, sampler), recipe.stems)
    count = sample(recipe, sampler, folder, rank)
    if barrier is not None:
        barrier.leave(wait=True)
    if rank.is_first and recipe.contact_sheet and not recipe.files.has_folders:
        write_sheet(recipe, folder)
    return count


def invert(recipe: LatteRecipe, sampler: LatteSampler) -> "Tensor":
    """The noise (1, F, C, h, w) that leads to the recipe's video."""
    frames, condition = recipe.source_video(sampler.codec.config.downsampling)
    run = sampler.begin_inversion(frames, condition)
    steps = progress(denoise(run), desc="inverting", total=len(run.timesteps), unit="step")
    for _ in steps:
        pass
    return run.x


def sample(recipe: LatteRecipe, sampler: LatteSampler, folder: SampleFolder, rank: Rank) -> int:
    """Sample and save what is missing of this process's share; returns how many videos.

    Videos are divided by whole batches, which are the same in a run that goes on.
    """
    size, stems, seeds = recipe.batch_size, recipe.stems, recipe.seeds
    starts = range(rank.index * size, recipe.count, rank.count * size)
    batches = [range(start, min(start + size, recipe.count)) for start in starts]
    left = [batch for batch in batches if not all(folder.has(stems[i]) for i in batch)]
    total, count = sum(map(len, batches)), sum(map(len, left))
    noise = invert(recipe, sampler) if recipe.inversion.video and left else None
    there = total - count
    with progress(total=total, initial=there, desc="videos", unit="video") as bar:
        for batch in left:
            conditions = [recipe.condition(recipe.condition_names[i]) for i in batch]
            run = sampler.begin(
                None if conditions[0] is None else conditions, [seeds[i] for i in batch], noise
            )
            options = {"desc": "steps", "unit": "step", "leave": False, "position": 1}
            for _ in progress(denoise(run), total=len(run.timesteps), **options):
                pass
            videos = sampler.decode(run.x, len(batch))
            for i, video in zip(batch, videos, strict=True):
                folder.save(stems[i], video)
            bar.update(len(batch))
    return count


def write_sheet(recipe: LatteRecipe, folder: SampleFolder) -> None:
    """Some frames of the first videos, read from their files."""
    stems, length = recipe.stems[:_SHEET_ROWS], recipe.network.num_frames
    videos = [recipe.files.read(folder.path / stem, length) for stem in stems]
    write_png(folder.path / SHEET, contact_sheet(videos, stems))


if __name__ == "__main__":
    main()
