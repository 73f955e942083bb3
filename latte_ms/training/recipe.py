"""The configuration of a training run: the keys of a YAML recipe."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args

from omegaconf import MISSING

from latte_ms.data.datasets import DataConfig
from latte_ms.diffusion.loss import Loss, check_weights
from latte_ms.diffusion.process import Prediction, Variance
from latte_ms.diffusion.schedule import Schedule
from latte_ms.options import MANY, Rule, check_each, integers, numbers, one_of, text
from latte_ms.parallel.ranks import Ranks
from latte_ms.runtime import RuntimeConfig, check_precision
from latte_ms.training.optimizer import OptimizerConfig
from latte_ms.training.recompute import num_recomputed
from latte_ms.training.timesteps import Sampling, Timesteps
from latte_ms.transformer.configuration import LatteConfig, with_preset
from latte_ms.vae.configuration import AutoencoderConfig

_ON_ASCEND = "bfloat16"  # what `runtime.precision` auto is there: gradients need its range
# Upper limits: beyond them a value is a mistake that would cost hours, or all of the memory.
_DATA_RULES: dict[str, Rule] = {
    "data.path": text,
    "data.image_size": integers(1, 8192),
    "data.num_frames": integers(1, 4096),
    "data.frame_interval": integers(1, MANY),
    "data.num_joint_images": integers(0, 4096),
    "data.cache_limit_gb": numbers(0, MANY),
}
_TRAIN_RULES: dict[str, Rule] = {
    "vae": text,
    "vae_frames": integers(1, 4096),
    "initial_entry": one_of("ema", "model"),
}
_AUTOENCODER_RULES: dict[str, Rule] = {
    "kl_weight": numbers(0, MANY),
    "reconstruction": one_of("absolute", "squared"),
    "initial_log_variance": numbers(-100, 100),
    "frames_per_video": integers(1, 4096),
    "scale_videos": integers(1, MANY),
}
_ALIGNMENT_RULES: dict[str, Rule] = {
    "alignment_weight": numbers(0, 100),
    "alignment_student_blocks": integers(0, 4096),
    "alignment_teacher_blocks": integers(0, 4096),
    "alignment_gap": numbers(0, 1),
}
_ALWAYS_RECORDED = ("num_train_steps", "noise_schedule", "loss", "prediction")  # of `diffusion`
_SHARED_COUNTS = ("num_frames", "num_joint_images")  # of `data` and `network`
_MOST_UPDATES = 10**9  # 30 updates a second for a year
_MOST_TRAIN_STEPS = 100_000  # the tables of the schedule are made before the run
# Far beyond what runs need; a slip of the keyboard is an error before it takes memory or time.
_LOOP_LIMITS = {
    "max_steps": (1, _MOST_UPDATES),
    "batch_size": (1, 100_000),
    "accumulate": (1, 100_000),
    "num_workers": (1, 1024),
    "log_every": (1, _MOST_UPDATES),
    "save_every": (1, _MOST_UPDATES),
    "keep_checkpoints": (0, _MOST_UPDATES),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process and what is learned. Raises ValueError for an invalid combination."""

    num_train_steps: int = 1000
    noise_schedule: str = "linear"  # or squaredcos_cap_v2
    loss: Loss = "mse"  # mse, rescaled_mse, kl or rescaled_kl
    prediction: Prediction = "epsilon"  # or x0
    variance: Variance = "fixed_small"  # or fixed_large; for the kl losses, if it is not learned
    min_snr_gamma: float = 0.0  # 5 is usual; weights the squared error, arXiv 2303.09556; 0: off
    # 0.05 is usual; away from another sample of the batch, arXiv 2506.05350; 0: off
    contrastive_weight: float = 0.0
    timestep_sampling: Sampling = "uniform"  # or loss_aware: more often where the loss is large
    # Of self-representation alignment, arXiv 2505.02831, which has 0.04; 0: off
    alignment_weight: float = 0.0
    alignment_student_blocks: int = 0  # an early block learns,
    alignment_teacher_blocks: int = 0  # from a later one of the EMA; such as 8 and 20 of 28
    # Largest share of the timesteps by which the EMA sees less noise
    alignment_gap: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.num_train_steps <= _MOST_TRAIN_STEPS:
            raise ValueError(
                f"`diffusion.num_train_steps` must be 1 to {_MOST_TRAIN_STEPS}, "
                f"got {self.num_train_steps}."
            )
        if self.variance not in ("fixed_small", "fixed_large"):
            raise ValueError(
                "`diffusion.variance` must be fixed_small or fixed_large "
                f"(`network.learn_sigma` learns it), got {self.variance!r}."
            )
        if self.variance == "fixed_large" and self.loss not in ("kl", "rescaled_kl"):
            raise ValueError(
                f"`diffusion.variance` fixed_large needs a kl loss, "
                f"`diffusion.loss` is {self.loss}."
            )
        check_weights(self.loss, self.min_snr_gamma, self.contrastive_weight, "diffusion.")
        one_of(*get_args(Sampling))("diffusion.timestep_sampling", self.timestep_sampling)
        self._check_alignment()
        self.schedule()  # raises ValueError for an unknown schedule

    def _check_alignment(self) -> None:
        check_each(self, _ALIGNMENT_RULES, "diffusion.")
        student, teacher = self.alignment_student_blocks, self.alignment_teacher_blocks
        if self.alignment_weight and not 0 < student < teacher:
            raise ValueError(
                f"`diffusion.alignment_student_blocks` (={student}) must be at least 1 and less "
                f"than `diffusion.alignment_teacher_blocks` (={teacher})."
            )
        if not self.alignment_weight and (student or teacher or self.alignment_gap != 0.1):
            raise ValueError(
                "`diffusion.alignment_weight` must be above 0 for the other keys of the alignment, "
                f"got {self.alignment_weight}."
            )

    def timesteps(self, ranks: Ranks) -> Timesteps | None:
        """What completes the batches of a run; None where they are complete."""
        loss_aware, gap = self.timestep_sampling == "loss_aware", self.teacher_gap
        if not loss_aware and gap is None:
            return None
        return Timesteps(self.num_train_steps, loss_aware, gap, ranks)

    @property
    def teacher_gap(self) -> int | None:
        """Most timesteps by which the teacher of an alignment sees less noise."""
        if not self.alignment_weight:
            return None
        return min(round(self.alignment_gap * self.num_train_steps), self.num_train_steps - 1)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields, but for newer ones at their default: older checkpoints do not record them."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        recorded = dataclasses.asdict(self)
        return {
            name: value
            for name, value in recorded.items()
            if name in _ALWAYS_RECORDED or value != defaults[name]
        }

    def schedule(self) -> Schedule:
        """The chain of `num_train_steps` steps."""
        return Schedule.create(self.num_train_steps, self.noise_schedule)


@dataclass(frozen=True)
class LoopConfig:
    """The length of a run, and what it writes to disk."""

    output: str = MISSING  # folder; running the same command again resumes from its checkpoints
    max_steps: int = 1_000_000
    batch_size: int = 5  # videos per device and batch
    accumulate: int = 1  # batches per update, whose gradients are averaged
    num_workers: int = 8  # threads that decode videos
    log_every: int = 100
    save_every: int = 10_000
    keep_checkpoints: int = 3  # number of newest ones; 0 keeps all
    tensorboard: bool = False  # the columns of the history also as scalars for TensorBoard
    seed: int = 3407

    def __post_init__(self) -> None:
        for name, (least, most) in _LOOP_LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"`loop.{name}` must be {least} to {most}, got {value}.")


@dataclass(frozen=True)
class TrainConfig:
    """The keys of `scripts/train.py`.

    Raises ValueError if two sections contradict each other.
    """

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data: DataConfig = MISSING
    vae: str = MISSING  # folder of a trained autoencoder in diffusers' layout
    vae_precision: str = "float32"
    vae_frames: int = 8  # frames that it encodes at a time
    cache_latents: bool = False  # encode each video once (middle window), into memory
    preset: str = ""  # a name such as Latte-XL/2: the sizes that `network` leaves out
    network: LatteConfig = field(default_factory=LatteConfig)
    recompute: int | str = 0  # blocks, or all, to compute again for gradients: less memory, slower
    initial_weights: str = ""  # weights to start from; names and shapes must match exactly
    initial_entry: str = "ema"  # entry to load: ema or model
    initial_prefix: str = ""  # what the network's names begin with there, such as "network."
    initial_only_network: bool = False  # leave out what is no part of the network
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @staticmethod
    def fill(values: dict[Any, Any]) -> dict[Any, Any]:
        """The keys of a recipe with those that follow from `preset` and from shared counts."""
        return _with_shared_counts(with_preset(values))

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.runtime.resolved(_ON_ASCEND))
        check_each(self, _TRAIN_RULES)
        check_precision(self.vae_precision, self.runtime.device, "vae_precision")
        if self.diffusion.variance == "fixed_large" and self.network.learn_sigma:
            raise ValueError(
                "`diffusion.variance` fixed_large needs `network.learn_sigma` false, got true."
            )
        num_recomputed(self.recompute, self.network.depth)
        self._check_options_of_the_loss()
        if not isinstance(self.data, DataConfig):
            return  # `config` reports the missing key
        check_each(self, _DATA_RULES)
        for name in _SHARED_COUNTS:
            theirs, ours = getattr(self.data, name), getattr(self.network, name)
            if theirs != ours:
                raise ValueError(
                    f"`data.{name}` (={theirs}) must equal `network.{name}` (={ours})."
                )
        self._check_conditioning(self.data)
        if self.cache_latents and (self.data.flip or self.data.num_joint_images):
            raise ValueError(
                "`cache_latents` stores one encoding per video and needs `data.flip` false and "
                f"`data.num_joint_images` 0, got {self.data.flip} and {self.data.num_joint_images}."
            )

    def _check_options_of_the_loss(self) -> None:
        blocks = self.diffusion.alignment_teacher_blocks
        if blocks > self.network.depth:
            raise ValueError(
                f"`diffusion.alignment_teacher_blocks` (={blocks}) must be at most `network.depth` "
                f"(={self.network.depth})."
            )
        if self.diffusion.contrastive_weight and self.loop.batch_size == 1:
            raise ValueError(
                "`loop.batch_size` must be at least 2 for `diffusion.contrastive_weight` "
                f"(={self.diffusion.contrastive_weight}), got 1."
            )

    def _check_conditioning(self, data: DataConfig) -> None:
        conditioning = self.network.conditioning
        if (conditioning == "class") != data.classes:
            raise ValueError(
                f"`data.classes` (={data.classes}) must be true for, and only for, "
                f"`network.conditioning` class (is {conditioning})."
            )
        if (conditioning == "text") != bool(data.text_embeddings):
            raise ValueError(
                f"`data.text_embeddings` (={data.text_embeddings!r}) must name a file for, and "
                f"only for, `network.conditioning` text (is {conditioning})."
            )
        if conditioning == "text" and data.num_joint_images:
            raise ValueError(
                f"`data.num_joint_images` (={data.num_joint_images}) must be 0 for "
                "`network.conditioning` text: the images would be trained with another video's "
                "caption."
            )

    @property
    def identity(self) -> dict[str, Any]:
        """The configuration that a resumed run must match."""
        network = dataclasses.asdict(self.network)
        return {"network": network, "diffusion": self.diffusion.identity}

    @property
    def variance(self) -> Variance:
        """The reverse-process variance."""
        return "learned_range" if self.network.learn_sigma else self.diffusion.variance


def _with_shared_counts(values: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of a recipe, with each count of `data` also in `network`, and vice versa."""
    data, network = values.get("data"), values.get("network", {})
    if not (isinstance(data, dict) and isinstance(network, dict)):
        return values
    counts = {
        name: part[name] for name in _SHARED_COUNTS for part in (data, network) if name in part
    }
    return {**values, "data": counts | data, "network": counts | network}


@dataclass(frozen=True)
class AutoencoderTrainConfig:
    """The keys of `scripts/train_autoencoder.py`."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data: DataConfig = MISSING
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    kl_weight: float = 1e-4
    reconstruction: str = "absolute"  # or squared
    initial_log_variance: float = -6.0  # of the posterior; at 0 its noise slows down learning
    frames_per_video: int = 4  # random frames of each clip in a batch
    scale_videos: int = 64  # videos measured at the end for the scaling factor
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.runtime.resolved(_ON_ASCEND))
        check_each(self, _AUTOENCODER_RULES)
        if not isinstance(self.data, DataConfig):
            return  # `config` reports the missing key
        check_each(self, _DATA_RULES)
        if self.data.text_embeddings:
            raise ValueError(
                "`data.text_embeddings` must be empty for an autoencoder, "
                f"got {self.data.text_embeddings!r}."
            )
        if self.data.image_size % self.network.downsampling:
            raise ValueError(
                f"`data.image_size` (={self.data.image_size}) must be divisible by the "
                f"downsampling of `network.block_out_channels` (={self.network.downsampling})."
            )
