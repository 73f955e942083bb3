"""The rules of the key `sequence_parallel` of a training recipe."""

from typing import TYPE_CHECKING, Any

from latte_ms.data.datasets import DataConfig
from latte_ms.options import integers
from latte_ms.training.sharding import refuse
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

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
    if isinstance(network, LatteConfig):
        if not network.is_divisible:
            raise ValueError(
                f"{name} must be 1 for `network.variant` 3 and 4, `network.patch_embedding` "
                "compression and `network.injection` tokens."
            )
        _check_divides(ranks, "`network.num_frames`", network.num_frames)
        check_tokens(ranks, network.input_size, network.input_size, network.patch_size)
    elif isinstance(network, LatteT2VConfig):
        _check_divides(ranks, "`network.video_length`", network.video_length)
    if isinstance(cfg.data, DataConfig):
        # Of `LatteT2V` it may be 1 where `network.video_length` is not.
        _check_divides(ranks, "`data.num_frames`", cfg.data.num_frames)
        refuse("data.num_joint_images", cfg.data.num_joint_images, 0, name)
    refuse("lora.rank", cfg.lora.rank, 0, name)
    refuse("diffusion.alignment_weight", cfg.diffusion.alignment_weight, 0, name)
    refuse("diffusion.timestep_sampling", cfg.diffusion.timestep_sampling, "uniform", name)


def check_tokens(ranks: int, height: int, width: int, patch_size: int) -> None:
    """Raise ValueError unless `sequence_parallel` divides the tokens of latents of this size.

    Those of `LatteT2V` are known when the data are opened.
    """
    tokens = (height // patch_size) * (width // patch_size)
    _check_divides(ranks, "the tokens of a frame", tokens)


def _check_divides(ranks: int, what: str, length: int) -> None:
    if length % ranks:
        raise ValueError(f"`sequence_parallel` (={ranks}) must divide {what}, got {length}.")
