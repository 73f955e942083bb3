"""Train Latte unconditionally or on classes or captions: `train.py --config FILE [key=value ...]`.

Running the same command again resumes from the newest checkpoint in `loop.output`. Several devices:
`msrun --worker_num=8 --local_worker_num=8 --join=True scripts/train.py --config FILE
runtime.distributed=true`.
"""

from pathlib import Path

from latte_ms import runtime, weights
from latte_ms.atomic import atomic_file
from latte_ms.config import exit_on_error, parse, to_yaml
from latte_ms.data.datasets import VideoDataset
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.data.text_embeddings import TextEmbeddings
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.parallel.ranks import Ranks
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.training import loop
from latte_ms.training.alignment import Alignment
from latte_ms.training.batches import LatentBatches
from latte_ms.training.conditions import latte_conditions
from latte_ms.training.latents import CachedLatents, LatentSource, OnlineLatents, check_size
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.recipe import TrainConfig
from latte_ms.training.recompute import num_recomputed, recompute_first
from latte_ms.training.run_folder import CURVES, RunFolder
from latte_ms.training.step import TrainStep
from latte_ms.training.watch import DivergedError
from latte_ms.transformer.latte import Latte
from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(TrainConfig, arguments, __doc__)
    with exit_on_error(DivergedError):
        rank = runtime.setup(cfg.runtime)
        with RunFolder(cfg.loop, cfg.identity, rank) as folder:
            last = train(cfg, folder)
    if rank.is_first:
        say(f"Checkpoint: {last}\nCurves: {folder.path / CURVES}")


def train(cfg: TrainConfig, folder: RunFolder) -> Path:
    """Run the updates that are left, in the entered `folder`; returns the last checkpoint."""
    rank = folder.rank
    batches = build_batches(cfg, rank)
    network = build_network(cfg)
    batches.prepare()
    step = build_step(cfg, network, rank)
    if rank.is_first:
        with atomic_file(folder.path / "config.yaml") as temporary:
            temporary.write_text(to_yaml(cfg), encoding="utf-8")
    terms = step.objective.terms
    return loop.train(network, step, terms, batches, cfg.optimizer, folder)


def build_batches(cfg: TrainConfig, rank: Rank) -> LatentBatches:
    """The source of encoded batches and their noise.

    Raises ValueError if the parts do not fit together.
    """
    dataset = VideoDataset(cfg.data, training=not cfg.cache_latents)
    settings = LoaderConfig(cfg.loop.batch_size, cfg.loop.seed, num_workers=cfg.loop.num_workers)
    loader = Loader(dataset, settings, rank.index, rank.count)
    autoencoder = load_autoencoder(cfg.vae, runtime.compute_dtype(cfg.vae_precision))
    codec = Codec(autoencoder, cfg.vae_frames)
    check_size(cfg.network, cfg.data.image_size, codec)
    source: LatentSource = (CachedLatents if cfg.cache_latents else OnlineLatents)(loader, codec)
    embeddings = build_text_embeddings(cfg)
    conditions = latte_conditions(cfg.network, dataset.names, dataset.num_classes, embeddings)
    num_timesteps, dropout = cfg.diffusion.num_train_steps, cfg.network.class_dropout_prob
    shape = cfg.network.clip_shape
    return LatentBatches(source, conditions, shape, num_timesteps, cfg.loop.seed, dropout)


def build_text_embeddings(cfg: TrainConfig) -> TextEmbeddings | None:
    """The prepared text embeddings for conditioning "text", else None."""
    if cfg.network.conditioning != "text":
        return None
    shape = (cfg.network.text_tokens, cfg.network.text_width)
    return TextEmbeddings(cfg.data.text_embeddings, shape)


def build_network(cfg: TrainConfig) -> Latte:
    """The network with its initial weights."""
    dtype = runtime.compute_dtype(cfg.runtime.precision)
    network = Latte(cfg.network, dtype, cfg.loop.seed)
    if cfg.initial_weights:
        weights.load(
            network,
            cfg.initial_weights,
            cfg.initial_entry,
            prefix=cfg.initial_prefix,
            only_network=cfg.initial_only_network,
        )
    recompute_first(network.blocks, num_recomputed(cfg.recompute, cfg.network.depth))
    return network


def build_step(cfg: TrainConfig, network: Latte, rank: Rank) -> TrainStep:
    """Loss, gradients and update as one graph."""
    loss = DiffusionLoss(
        network,
        cfg.diffusion.schedule(),
        loss=cfg.diffusion.loss,
        prediction=cfg.diffusion.prediction,
        variance=cfg.variance,
        min_snr_gamma=cfg.diffusion.min_snr_gamma,
        contrastive_weight=cfg.diffusion.contrastive_weight,
    )
    alignment, timesteps = build_alignment(cfg), cfg.diffusion.timesteps(Ranks(rank))
    loss_aware = timesteps is not None and timesteps.history is not None
    return TrainStep(
        DenoisingObjective(loss, alignment, per_sample=loss_aware),
        cfg.optimizer,
        scale_loss=cfg.runtime.precision == "float16",
        distributed=cfg.runtime.distributed,
        accumulate=cfg.loop.accumulate,
        teacher=None if alignment is None else alignment.teacher_parameters,
        timesteps=timesteps,
    )


def build_alignment(cfg: TrainConfig) -> Alignment | None:
    """Self-representation alignment with a teacher of its own, where the recipe asks for it."""
    if not cfg.diffusion.alignment_weight:
        return None
    dtype = runtime.compute_dtype(cfg.runtime.precision)
    return Alignment(
        Latte(cfg.network, dtype, None),
        cfg.network.hidden_size,
        cfg.diffusion.alignment_student_blocks,
        cfg.diffusion.alignment_teacher_blocks,
        cfg.diffusion.alignment_weight,
        dtype,
        cfg.loop.seed,
    )


if __name__ == "__main__":
    main()
