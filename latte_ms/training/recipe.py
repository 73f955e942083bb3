"""The configuration of a training run: the keys of a YAML recipe."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from latte_ms.cache.configuration import CaptionCacheConfig, LatentCacheConfig
from latte_ms.data.datasets import DataConfig, DataSection
from latte_ms.diffusion.process import Variance
from latte_ms.messages import shown
from latte_ms.options import MANY, Rule, check_each, integers, numbers, one_of, text
from latte_ms.runtime import RuntimeConfig, check_precision
from latte_ms.training.diffusion_recipe import DiffusionConfig
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.lora_recipe import LoraTraining
from latte_ms.training.optimizer import OptimizerConfig
from latte_ms.training.preview_recipe import PreviewConfig
from latte_ms.training.recompute import num_recomputed
from latte_ms.training.sequence_recipe import check_sequence_parallel
from latte_ms.training.sharding import check_shard_states, refuse
from latte_ms.training.shared_sizes import (
    check_replaced,
    with_cache,
    with_derived_sizes,
    with_recorded_sizes,
    with_shared_counts,
)
from latte_ms.transformer.configuration import LatteConfig, with_preset
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

ON_ASCEND = "bfloat16"  # what `runtime.precision` auto is there: gradients need its range
_TRAIN_RULES: dict[str, Rule] = {
    "vae_chunk_frames": integers(1, 4096),
    "initial_entry": one_of("ema", "model"),
}
_T2V_RULES: dict[str, Rule] = {
    "caption_dropout": numbers(0, 1),
    "caption_memory_gb": numbers(0, MANY),
}
# Counts that `data` and `network` share, under the names of both.
_LATTE_COUNTS = {"num_frames": "num_frames", "num_joint_images": "num_joint_images"}
_T2V_COUNTS = {"num_frames": "video_length", "num_joint_images": "num_joint_images"}


@dataclass(frozen=True)
class TrainConfig:
    """The keys of `scripts/train.py` that all networks share, and of `scripts/encode.py`.

    `config.load(TrainConfig, ...)` returns the subclass that the key `model` names. With
    `latent_cache.path`, training reads neither `vae` nor `data.path`, which may be left out. Raises
    ValueError if two sections contradict each other.
    """

    model: str = "Latte"  # or LatteT2V
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data: DataSection = MISSING
    vae: str = MISSING  # folder of a trained autoencoder in diffusers' layout
    vae_precision: str = "float32"
    vae_chunk_frames: int = 8  # frames that it encodes at a time
    latent_cache: LatentCacheConfig = field(default_factory=LatentCacheConfig)
    sequence_parallel: int = 1  # ranks that divide each clip among them; see `loop.batch_size`
    # Blocks (of LatteT2V, pairs), or all, to compute again for gradients: less memory, slower
    recompute: int | str = 0
    initial_weights: str = ""  # weights to start from; names and shapes must match exactly
    initial_entry: str = "ema"  # entry to load: ema or model
    initial_prefix: str = ""  # what the network's names begin with there, such as "network."
    initial_only_network: bool = False  # leave out what is no part of the network
    initial_partial: bool = False  # take what fits, and print what was loaded and what was not
    lora: LoraTraining = field(default_factory=LoraTraining)  # needs `initial_weights`
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @staticmethod
    def choose(values: dict[Any, Any]) -> "type[TrainConfig]":
        """The schema of a recipe's `model`."""
        check_replaced(values)
        schemas = {"Latte": LatteTrainConfig, "LatteT2V": T2VTrainConfig}
        name = str(values.get("model", TrainConfig.model))
        one_of(*schemas)("model", name)
        return schemas[name]

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.runtime.resolved(ON_ASCEND))
        check_each(self, _TRAIN_RULES)
        check_precision(self.vae_precision, self.runtime.device, "vae_precision")
        self._check_initial()
        self.lora.check_initial(self.initial_weights, self.initial_partial)
        self._check_states()
        if self.diffusion.variance == "fixed_large" and self.learns_variance:
            raise ValueError(
                f"`diffusion.variance` fixed_large needs {self.fixed_variance_hint}, "
                "got a network that learns its variance."
            )
        num_recomputed(self.recompute, self.depth)
        self._check_loss_options()
        if not isinstance(self.data, DataSection):
            return  # `config` reports the missing key
        self._check_data(self.data)
        if not self.latent_cache.path:
            text("vae", self.vae)
            text("data.path", self.data.path)
        elif self.data.cache:
            raise ValueError(
                "`data.cache` must be false with `latent_cache.path`: videos are decoded once."
            )

    def _check_loss_options(self) -> None:
        """Raise ValueError for options of the loss that the network or the batches do not allow."""
        if self.diffusion.contrastive_weight and self.loop.batch_size == 1:
            raise ValueError(
                "`loop.batch_size` must be at least 2 for `diffusion.contrastive_weight` "
                f"(={self.diffusion.contrastive_weight}), got 1."
            )

    def _check_states(self) -> None:
        """Raise ValueError for averages and states that do not go with the rest."""
        sigma_rels, weight = list(self.optimizer.ema_sigma_rels), self.diffusion.alignment_weight
        if self.lora.rank:
            refuse("optimizer.ema_sigma_rels", sigma_rels, [], "a `lora.rank`")
            refuse("diffusion.alignment_weight", weight, 0, "a `lora.rank`")
        check_shard_states(self.optimizer.shard_states, self.runtime.distributed)
        if self.optimizer.shard_states:
            refuse("diffusion.alignment_weight", weight, 0, "`optimizer.shard_states`")
        check_sequence_parallel(self, getattr(self, "network", None))

    def _check_initial(self) -> None:
        """Raise ValueError for a choice about initial weights where there are none."""
        if self.initial_weights:
            return
        for name in ("entry", "prefix", "only_network", "partial"):
            value = getattr(self, f"initial_{name}")
            if value != getattr(TrainConfig, f"initial_{name}"):
                raise ValueError(f"`initial_{name}` (={shown(value)}) needs `initial_weights`.")

    def _check_data(self, data: DataConfig) -> None:
        raise NotImplementedError

    def _check_counts(self, data: DataConfig, network: Any, names: dict[str, str]) -> None:
        """Raise ValueError unless the counts of `data` equal those of `network`, by names."""
        for ours, theirs in names.items():
            if getattr(data, ours) != getattr(network, theirs):
                raise ValueError(
                    f"`data.{ours}` (={getattr(data, ours)}) must equal "
                    f"`network.{theirs}` (={getattr(network, theirs)})."
                )

    @property
    def depth(self) -> int:
        """The number of blocks of the network; of `LatteT2V` that of pairs of blocks."""
        raise NotImplementedError

    @property
    def fixed_variance_hint(self) -> str:
        """The key and value of a network that does not learn its variance."""
        raise NotImplementedError

    @property
    def learns_variance(self) -> bool:
        """Whether the network predicts a variance."""
        raise NotImplementedError

    @property
    def dropout(self) -> float:
        """The share of the clips that are trained on without their condition."""
        raise NotImplementedError

    @property
    def variance(self) -> Variance:
        """The reverse-process variance."""
        return "learned_range" if self.learns_variance else self.diffusion.variance

    @property
    def identity(self) -> dict[str, Any]:
        """The configuration that a resumed run must match."""
        return {"diffusion": self.diffusion.identity, **self._lora_identity}

    @property
    def _lora_identity(self) -> dict[str, Any]:
        """What LoRA matrices belong to; empty where all weights are trained."""
        if not self.lora.rank:
            return {}
        lora = dataclasses.asdict(self.lora)
        del lora["format"]
        names = ("initial_weights", "initial_entry", "initial_prefix")
        return {"lora": {**lora, **{name: getattr(self, name) for name in names}}}


@dataclass(frozen=True)
class LatteTrainConfig(TrainConfig):
    """The keys of `scripts/train.py` for `Latte`."""

    preset: str = ""  # a name such as Latte-XL/2: the sizes that `network` leaves out
    network: LatteConfig = field(default_factory=LatteConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)

    @staticmethod
    def fill(values: dict[Any, Any]) -> dict[Any, Any]:
        """The keys of a recipe with those that follow from `preset` and from shared counts."""
        return with_cache(with_shared_counts(with_preset(values), _LATTE_COUNTS))

    def _check_loss_options(self) -> None:
        super()._check_loss_options()
        blocks = self.diffusion.alignment_teacher_blocks
        if blocks > self.depth:
            raise ValueError(
                f"`diffusion.alignment_teacher_blocks` (={blocks}) must be at most `network.depth` "
                f"(={self.depth})."
            )

    def _check_data(self, data: DataConfig) -> None:
        self._check_counts(data, self.network, _LATTE_COUNTS)
        conditioning = self.network.conditioning
        if (conditioning == "class") != data.classes:
            raise ValueError(
                f"`data.classes` (={data.classes}) must be true for, and only for, "
                f"`network.conditioning` class (is {conditioning})."
            )
        if (conditioning == "text") != bool(data.text_embeddings):
            raise ValueError(
                f"`data.text_embeddings` (={shown(data.text_embeddings)}) must name a file for, "
                f"and only for, `network.conditioning` text (is {conditioning})."
            )
        if conditioning == "text" and data.num_joint_images:
            raise ValueError(
                f"`data.num_joint_images` (={data.num_joint_images}) must be 0 for "
                "`network.conditioning` text: the images would be trained with another video's "
                "caption."
            )
        if data.captions:
            raise ValueError(
                f"`data.captions` (={shown(data.captions)}) needs `model` LatteT2V; Latte takes "
                "`data.text_embeddings`."
            )

    @property
    def depth(self) -> int:
        """See `TrainConfig`."""
        return self.network.depth

    @property
    def fixed_variance_hint(self) -> str:
        """See `TrainConfig`."""
        return "`network.learn_sigma` false"

    @property
    def learns_variance(self) -> bool:
        """See `TrainConfig`."""
        return self.network.learn_sigma

    @property
    def dropout(self) -> float:
        """See `TrainConfig`."""
        return self.network.class_dropout_prob

    @property
    def identity(self) -> dict[str, Any]:
        """See `TrainConfig`."""
        return {"network": self.network.identity, **super().identity}


@dataclass(frozen=True)
class T2VTrainConfig(TrainConfig):
    """The keys of `scripts/train.py` for `LatteT2V`: text to video, or to images."""

    model: str = "LatteT2V"
    # Its sizes that are left out are those of `initial_weights`, where that records them.
    network: LatteT2VConfig = field(default_factory=LatteT2VConfig)
    enable_temporal_attentions: bool = True  # false skips the temporal blocks: images alone
    text_encoder: str = ""  # folder of a T5 encoder in transformers' layout
    tokenizer: str = ""  # folder of its tokenizer
    streamed_text_encoder: bool = False  # read from disk block by block
    text_precision: str = "float32"  # of the text encoder
    clean_captions: bool = True  # clean captions as sampling cleans prompts
    caption_dropout: float = 0.1  # the share of the clips that see the empty prompt instead
    caption_memory_gb: float = 4.0  # of embeddings that are kept, to be encoded once
    # Where they were encoded before: training then needs neither `text_encoder` nor `tokenizer`.
    caption_cache: CaptionCacheConfig = field(default_factory=CaptionCacheConfig)

    @staticmethod
    def fill(values: dict[Any, Any]) -> dict[Any, Any]:
        """The keys of a recipe with those that follow from its initial weights and counts."""
        values = with_recorded_sizes(with_shared_counts(values, _T2V_COUNTS))
        values = with_shared_counts(values, _T2V_COUNTS)
        return with_cache(with_derived_sizes(values, DiffusionConfig.num_train_steps))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each(self, _T2V_RULES)
        check_precision(self.text_precision, self.runtime.device, "text_precision")
        channels, output = self.network.in_channels, self.network.resolved_out_channels
        if output not in (channels, 2 * channels):
            raise ValueError(
                f"`network.out_channels` must be `network.in_channels` (={channels}), or twice "
                f"that for a learned variance, got {output}."
            )
        if not self.enable_temporal_attentions and self.optimizer.weight_decay:
            raise ValueError(
                "`optimizer.weight_decay` must be 0 with `enable_temporal_attentions` false: it "
                f"would shrink the temporal blocks, got {self.optimizer.weight_decay}."
            )
        if self.network.num_embeds_ada_norm != self.diffusion.num_train_steps:
            raise ValueError(
                f"`network.num_embeds_ada_norm` (={self.network.num_embeds_ada_norm}) must be "
                f"`diffusion.num_train_steps` (={self.diffusion.num_train_steps})."
            )

    def _check_data(self, data: DataConfig) -> None:
        counts = dict(_T2V_COUNTS)
        if data.num_frames == 1 and data.num_joint_images == 0:
            del counts["num_frames"]  # images: any network takes a single frame
        elif not self.enable_temporal_attentions:
            raise ValueError(
                "`enable_temporal_attentions` false needs `data.num_frames` 1 and no joint "
                f"images, got {data.num_frames} and {data.num_joint_images}."
            )
        self._check_counts(data, self.network, counts)
        for name, value in (("classes", data.classes), ("text_embeddings", data.text_embeddings)):
            if value:
                raise ValueError(f"`data.{name}` (={shown(value)}) needs `model` Latte.")
        needed = {"data.captions": data.captions}
        if not self.caption_cache.path:
            needed |= {"text_encoder": self.text_encoder, "tokenizer": self.tokenizer}
        for name, value in needed.items():
            if not value:
                raise ValueError(f"`{name}` must be given for `model` LatteT2V, got {value!r}.")

    def _check_loss_options(self) -> None:
        super()._check_loss_options()
        if self.diffusion.alignment_weight:
            raise ValueError(
                f"`diffusion.alignment_weight` (={self.diffusion.alignment_weight}) needs `model` "
                "Latte."
            )

    @property
    def depth(self) -> int:
        """See `TrainConfig`."""
        return self.network.num_layers

    @property
    def fixed_variance_hint(self) -> str:
        """See `TrainConfig`."""
        return "`network.out_channels` equal to `network.in_channels`"

    @property
    def learns_variance(self) -> bool:
        """See `TrainConfig`."""
        return self.network.resolved_out_channels == 2 * self.network.in_channels

    @property
    def dropout(self) -> float:
        """See `TrainConfig`."""
        return self.caption_dropout

    @property
    def identity(self) -> dict[str, Any]:
        """See `TrainConfig`."""
        network = dataclasses.asdict(self.network)
        return {"model": self.model, "network": network, **super().identity}
