"""The configuration of the training of an autoencoder: the keys of a YAML recipe."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from latte_ms.data.datasets import DataSection
from latte_ms.messages import shown
from latte_ms.options import MANY, Rule, check_each, integers, numbers, one_of
from latte_ms.runtime import RuntimeConfig
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.optimizer import OptimizerConfig
from latte_ms.training.recipe import ON_ASCEND
from latte_ms.training.sharding import check_shard_states
from latte_ms.vae.configuration import AutoencoderConfig

_AUTOENCODER_RULES: dict[str, Rule] = {
    "kl_weight": numbers(0, MANY),
    "reconstruction": one_of("absolute", "squared"),
    "initial_log_variance": numbers(-100, 100),
    "frames_per_video": integers(1, 4096),
    "scale_videos": integers(1, MANY),
}


@dataclass(frozen=True)
class AutoencoderTrainConfig:
    """The keys of `scripts/train_autoencoder.py`."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data: DataSection = MISSING
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    kl_weight: float = 1e-4
    reconstruction: str = "absolute"  # or squared
    initial_log_variance: float = -6.0  # of the posterior; at 0 its noise slows down learning
    frames_per_video: int = 4  # random frames of each clip in a batch
    scale_videos: int = 64  # videos measured at the end for the scaling factor
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.runtime.resolved(ON_ASCEND))
        check_each(self, _AUTOENCODER_RULES)
        check_shard_states(self.optimizer.shard_states, self.runtime.distributed)
        if not isinstance(self.data, DataSection):
            return  # `config` reports the missing key
        for name in ("text_embeddings", "captions"):
            if value := getattr(self.data, name):
                raise ValueError(
                    f"`data.{name}` must be empty for an autoencoder, got {shown(value)}."
                )
        if self.data.image_size % self.network.downsampling:
            raise ValueError(
                f"`data.image_size` (={self.data.image_size}) must be divisible by the "
                f"downsampling of `network.block_out_channels` (={self.network.downsampling})."
            )
