"""Train Latte, or LatteT2V on captions: `train.py --config FILE [key=value ...]`.

Running the same command again resumes from the newest checkpoint in `loop.output`. Several devices:
`msrun --worker_num=8 --local_worker_num=8 --join=True scripts/train.py --config FILE
runtime.distributed=true`.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from latte_ms import runtime
from latte_ms.atomic import atomic_file
from latte_ms.cache.reading import CachedClips, check_autoencoder
from latte_ms.config import exit_on_error, parse, to_yaml
from latte_ms.data.datasets import VideoDataset, list_videos
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.generation.latte_sampler import Condition, LatteSampler, SamplerConfig
from latte_ms.generation.previews import Previews
from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.group import Group
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.training import assembly, loop
from latte_ms.training.batches import LatentBatches
from latte_ms.training.checkpoint import ema_of
from latte_ms.training.conditions import EmbeddingConditions
from latte_ms.training.latents import CachedLatents, LatentSource, OnlineLatents
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.recipe import LatteTrainConfig, TrainConfig
from latte_ms.training.run_folder import CURVES, PREVIEWS, RunFolder
from latte_ms.training.step import TrainStep
from latte_ms.training.summary import summary, try_batch
from latte_ms.training.trained_weights import export_lora
from latte_ms.training.watch import DivergedError
from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(TrainConfig, arguments, __doc__, check)
    with exit_on_error(DivergedError):
        rank = runtime.setup(cfg.runtime)
        with RunFolder(cfg.loop, cfg.identity, rank) as folder:
            last = train(cfg, folder)
    if rank.is_first:
        say(f"Checkpoint: {last}\nCurves: {folder.path / CURVES}")


def check(cfg: TrainConfig) -> None:
    """What `--dry-run` does besides printing: all parts are built, and one batch has its loss.

    Raises ValueError, OSError or MissingExtraError as a run would.
    """
    if not cfg.latent_cache.path:
        list_videos(cfg.data)
    rank = runtime.setup(cfg.runtime)
    folder = RunFolder(cfg.loop, cfg.identity, rank)
    folder.check()
    assembly.check_initial_weights(cfg)
    batches = build_batches(cfg, rank)
    network = build_network(cfg, rank)
    step = build_step(cfg, network, rank)
    if rank.is_first:
        describe(cfg, network, step, folder, batches)
    build_previews(cfg, network, step, batches, folder)
    with closing(batches(0)) as stream:
        try_batch(step.set_train(), step.objective.term_names, next(stream))


def train(cfg: TrainConfig, folder: RunFolder) -> Path:
    """Run the updates that are left, in the entered `folder`; returns the last checkpoint."""
    rank = folder.rank
    assembly.check_initial_weights(cfg)
    batches = build_batches(cfg, rank)
    network = build_network(cfg, rank)
    step = build_step(cfg, network, rank)
    after_update = build_previews(cfg, network, step, batches, folder)
    if rank.is_first:
        describe(cfg, network, step, folder, batches)
        with atomic_file(folder.path / "config.yaml") as temporary:
            temporary.write_text(to_yaml(cfg), encoding="utf-8")
    terms = step.objective.term_names
    last = loop.train(network, step, terms, batches, cfg.optimizer, folder, after_update)
    if not cfg.lora.rank:
        return last
    average = ema_of(network, step.gathered_states())
    if rank.is_first:
        say(f"LoRA weights: {export_lora(network, average, folder.path, cfg.lora.format)}")
    return last


def describe(
    cfg: TrainConfig,
    network: assembly.Denoiser,
    step: TrainStep,
    folder: RunFolder,
    batches: LatentBatches,
) -> None:
    """Log a summary of the run, and a warning where captions cannot be dropped."""
    num_videos, num_ranks = len(batches.source.names), folder.rank.count
    text = summary(network, step, cfg.loop, num_ranks, num_videos, folder.start)
    logger.info("A run in %s:\n%s", folder.path, text)
    if isinstance(batches.conditions, EmbeddingConditions):
        batches.conditions.warn_of_dropout(cfg.dropout)


def build_batches(cfg: TrainConfig, rank: Rank) -> LatentBatches:
    """The source of encoded batches and their noise.

    Raises ValueError if the parts do not fit together.
    """
    group = Group(rank, cfg.sequence_parallel)
    settings = LoaderConfig(cfg.loop.batch_size, cfg.loop.seed, num_workers=cfg.loop.num_workers)
    source: LatentSource
    hide_progress = not rank.is_first
    if cfg.latent_cache.path:
        clips = CachedClips(cfg.data, cfg.latent_cache, hide_progress)
        check_autoencoder(clips, cfg.vae, cfg.vae_precision)
        shape = assembly.cached_clip_shape(cfg, clips)
        loader = Loader(clips, settings, group.group_index, group.num_groups)
        source = CachedLatents(loader, group.part(shape[0]))
        conditions = assembly.conditions_of(cfg, clips, hide_progress)
    else:
        dataset = VideoDataset(cfg.data)
        codec = build_codec(cfg)
        shape = assembly.clip_shape(cfg, codec)
        loader = Loader(dataset, settings, group.group_index, group.num_groups)
        source = OnlineLatents(loader, codec, group.part(shape[0]))
        conditions = assembly.conditions_of(cfg, dataset, hide_progress)
    num_train_steps = cfg.diffusion.num_train_steps
    return LatentBatches(source, conditions, shape, num_train_steps, cfg.loop.seed, cfg.dropout)


def build_network(cfg: TrainConfig, rank: Rank) -> assembly.Denoiser:
    """The network of this rank; the first rank says what was loaded in part."""
    return assembly.build_network(cfg, rank.is_first, Group(rank, cfg.sequence_parallel))


def build_codec(cfg: TrainConfig) -> Codec:
    """The autoencoder of the recipe."""
    autoencoder = load_autoencoder(cfg.vae, runtime.compute_dtype(cfg.vae_precision))
    return Codec(autoencoder, cfg.vae_chunk_frames)


def build_previews(
    cfg: TrainConfig,
    network: assembly.Denoiser,
    step: TrainStep,
    batches: LatentBatches,
    folder: RunFolder,
) -> Callable[[int], None] | None:
    """What writes the videos of `preview` after an update; None where there are none.

    They are sampled by a network of its own, on the first rank; all ranks call the function, since
    they may have parts of the average. Raises ValueError where they cannot be sampled.
    """
    if not isinstance(cfg, LatteTrainConfig) or not cfg.preview.every:
        return None
    preview, previews = cfg.preview, None
    if folder.rank.is_first:
        previews = _previews(cfg, batches)

    def after_update(num_updates: int) -> None:
        if num_updates % preview.every:
            return
        weights = dict(network.parameters_and_names())
        if preview.entry == "ema":
            weights = ema_of(network, step.gathered_states())
        if previews is not None:
            path, _ = previews.write(folder.path / PREVIEWS / f"{num_updates:07d}", weights)
            logger.info("Preview: %s", path)

    return after_update


def _previews(cfg: LatteTrainConfig, batches: LatentBatches) -> Previews:
    """The previews of a recipe. Raises ValueError where they cannot be sampled."""
    seed, count = cfg.preview.seed, cfg.preview.num_videos
    if not cfg.vae:
        raise ValueError("`vae` must be given for `preview.every`, got none.")
    source, batch_size = batches.source, min(count, cfg.loop.batch_size)
    codec = source.codec if isinstance(source, OnlineLatents) else build_codec(cfg)
    titles, conditions, null = preview_conditions(cfg, batches)
    try:
        options = preview_options(cfg)
        sampler = LatteSampler(
            assembly.build_preview_network(cfg), codec, options, batch_size, null
        )
        return Previews(sampler, conditions, [seed + i for i in range(count)], titles)
    except ValueError as error:
        raise ValueError(str(error).replace("`sampler.", "`preview.")) from error


def preview_options(cfg: LatteTrainConfig) -> SamplerConfig:
    """DDIM as the recipe's section `preview` has it. Raises ValueError where that is impossible."""
    preview, diffusion = cfg.preview, cfg.diffusion
    if cfg.data.image_size % 2:
        raise ValueError(
            f"`data.image_size` must be even for `preview.every`, got {cfg.data.image_size}."
        )
    return SamplerConfig(
        method="ddim",
        num_steps=preview.num_steps,
        guidance_scale=preview.guidance_scale,
        num_train_steps=diffusion.num_train_steps,
        noise_schedule=diffusion.noise_schedule,
        prediction=diffusion.prediction,
    )


def preview_conditions(
    cfg: LatteTrainConfig, batches: LatentBatches
) -> tuple[list[str], list[Condition] | None, np.ndarray | None]:
    """Titles and conditions of previews, and the text embedding of no prompt.

    These are classes from the first to the last one, or the text embeddings of the first videos.
    """
    count = cfg.preview.num_videos
    if isinstance(batches.conditions, EmbeddingConditions):
        embeddings, names = batches.conditions.embeddings, batches.source.names
        shown = [names[i % len(names)] for i in range(count)]
        return shown, [embeddings[name] for name in shown], embeddings.unconditional
    if cfg.network.conditioning == "class":
        labels = np.linspace(0, cfg.network.num_classes - 1, count).round().astype(int).tolist()
        return [f"class {label}" for label in labels], labels, None
    return [f"seed {cfg.preview.seed + i}" for i in range(count)], None, None


def build_step(cfg: TrainConfig, network: assembly.Denoiser, rank: Rank) -> TrainStep:
    """Loss, gradients and update as one graph."""
    loss = DiffusionLoss(
        assembly.denoiser_of(network, cfg),
        cfg.diffusion.schedule(),
        loss=cfg.diffusion.loss,
        prediction=cfg.diffusion.prediction,
        variance=cfg.variance,
        min_snr_gamma=cfg.diffusion.min_snr_gamma,
        contrastive_weight=cfg.diffusion.contrastive_weight,
    )
    alignment = assembly.build_alignment(cfg)
    sampler = cfg.diffusion.timestep_sampler(Communicator(rank))
    loss_aware = sampler is not None and sampler.history is not None
    return TrainStep(
        DenoisingObjective(loss, alignment, per_sample=loss_aware),
        cfg.optimizer,
        scale_loss=cfg.runtime.precision == "float16",
        distributed=cfg.runtime.distributed,
        shard_over=rank if cfg.optimizer.shard_states else None,
        clip_group=Group(rank, cfg.sequence_parallel),
        accumulate=cfg.loop.accumulate,
        teacher=None if alignment is None else alignment.teacher_parameters,
        timestep_sampler=sampler,
    )


if __name__ == "__main__":
    main()
