"""Train Latte, or LatteT2V on captions: `train.py --config FILE [key=value ...]`.

Running the same command again resumes from the newest checkpoint in `loop.output`. Several devices:
`msrun --worker_num=8 --local_worker_num=8 --join=True scripts/train.py --config FILE
runtime.distributed=true`.
"""

from pathlib import Path

from latte_ms import runtime
from latte_ms.atomic import atomic_file
from latte_ms.config import exit_on_error, parse, to_yaml
from latte_ms.data.datasets import VideoDataset
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.parallel.group import Group
from latte_ms.parallel.ranks import Ranks
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.training import assembly, loop
from latte_ms.training.batches import LatentBatches
from latte_ms.training.checkpoint import ema_of
from latte_ms.training.latents import CachedLatents, LatentSource, OnlineLatents
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.recipe import TrainConfig
from latte_ms.training.run_folder import CURVES, RunFolder
from latte_ms.training.step import TrainStep
from latte_ms.training.trained import export_lora
from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(TrainConfig, arguments, __doc__)
    with exit_on_error(loop.DivergedError):
        rank = runtime.setup(cfg.runtime)
        with RunFolder(cfg.loop, cfg.identity, rank) as folder:
            last = train(cfg, folder)
    if rank.is_first:
        say(f"Checkpoint: {last}\nCurves: {folder.path / CURVES}")


def train(cfg: TrainConfig, folder: RunFolder) -> Path:
    """Run the updates that are left, in the entered `folder`; returns the last checkpoint."""
    rank = folder.rank
    assembly.check_initial_weights(cfg)
    batches = build_batches(cfg, rank)
    group = Group(rank, cfg.sequence_parallel)
    network = assembly.build_network(cfg, rank.is_first, group)
    batches.prepare()
    step = build_step(cfg, network, rank)
    if rank.is_first:
        with atomic_file(folder.path / "config.yaml") as temporary:
            temporary.write_text(to_yaml(cfg), encoding="utf-8")
    terms = step.objective.terms
    last = loop.train(network, step, terms, batches, cfg.optimizer, folder)
    kept = step.kept()
    if cfg.lora.rank and rank.is_first:
        average = ema_of(network, kept)
        say(f"LoRA weights: {export_lora(network, average, folder.path, cfg.lora.format)}")
    return last


def build_batches(cfg: TrainConfig, rank: Rank) -> LatentBatches:
    """The source of encoded batches and their noise.

    Raises ValueError if the parts do not fit together.
    """
    group = Group(rank, cfg.sequence_parallel)
    dataset = VideoDataset(cfg.data, training=not cfg.cache_latents)
    settings = LoaderConfig(cfg.loop.batch_size, cfg.loop.seed, num_workers=cfg.loop.num_workers)
    loader = Loader(dataset, settings, group.number, group.count)
    autoencoder = load_autoencoder(cfg.vae, runtime.compute_dtype(cfg.vae_precision))
    codec = Codec(autoencoder, cfg.vae_frames)
    shape = assembly.clip_shape(cfg, codec)
    latents = CachedLatents if cfg.cache_latents else OnlineLatents
    source: LatentSource = latents(loader, codec, group.part(shape[0]))
    conditions = assembly.conditions_of(cfg, dataset)
    num_timesteps = cfg.diffusion.num_train_steps
    return LatentBatches(source, conditions, shape, num_timesteps, cfg.loop.seed, cfg.dropout)


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
    alignment, timesteps = assembly.build_alignment(cfg), cfg.diffusion.timesteps(Ranks(rank))
    loss_aware = timesteps is not None and timesteps.history is not None
    return TrainStep(
        DenoisingObjective(loss, alignment, per_sample=loss_aware),
        cfg.optimizer,
        scale_loss=cfg.runtime.precision == "float16",
        distributed=cfg.runtime.distributed,
        rank=rank if cfg.optimizer.shard_states else None,
        sequence=Group(rank, cfg.sequence_parallel),
        accumulate=cfg.loop.accumulate,
        teacher=None if alignment is None else alignment.teacher_parameters,
        timesteps=timesteps,
    )


if __name__ == "__main__":
    main()
