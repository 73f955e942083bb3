"""The rules of the key `sequence_parallel` of a training recipe."""

from typing import TYPE_CHECKING, Any

from latte_ms.data.datasets import DataConfig
from latte_ms.options import integers
from latte_ms.training.sharding import refuse
from latte_ms.transformer.configuration import LatteConfig

if TYPE_CHECKING:
    from latte_ms.training.recipe import TrainConfig

_RULE = integers(1, 4096)


def check_sequence_parallel(cfg: "TrainConfig", network: Any) -> None:
    """Raise ValueError for a `sequence_parallel` that the other keys or the network do not allow.

    Whether it divides the number of ranks is known to `parallel.group.Group` alone.
    """
    ranks = cfg.sequence_parallel
    _RULE("sequence_parallel", ranks)
    if ranks == 1:
        return
    name = f"`sequence_parallel` (={ranks})"
    if not cfg.runtime.distributed:
        raise ValueError(f"{name} needs `runtime.distributed` true, got false.")
    if not isinstance(network, LatteConfig):
        raise ValueError(f"{name} needs `model` Latte, got {cfg.model}.")
    side = network.input_size // network.patch_size
    lengths = {"`network.num_frames`": network.num_frames, "the tokens of a frame": side**2}
    for what, length in lengths.items():
        if length % ranks:
            raise ValueError(f"{name} must divide {what}, got {length}.")
    images = cfg.data.num_joint_images if isinstance(cfg.data, DataConfig) else 0
    sampling = cfg.diffusion.timestep_sampling
    refuse("data.num_joint_images", images, name)
    refuse("lora.rank", cfg.lora.rank, name)
    refuse("diffusion.alignment_weight", cfg.diffusion.alignment_weight, name)
    refuse("diffusion.timestep_sampling", sampling if sampling != "uniform" else "", name)
