"""What a run is about to do, in a few lines: parameters, batch, length, memory."""

import logging
from collections.abc import Iterable

import numpy as np
from mindspore import Parameter, nn

from latte_ms.training.batch import Batch
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.step import TrainStep

logger = logging.getLogger(__name__)


def summary(
    network: nn.Cell,
    step: TrainStep,
    loop: LoopConfig,
    num_ranks: int,
    num_videos: int,
    start: int = 0,
) -> str:
    """Lines about a run of `step` on `num_videos` videos from update `start` on.

    Args:
        network: the part of `step`'s objective whose weights are saved.
    """
    own, trained = list(network.get_parameters()), list(step.weights)
    groups, who = num_ranks // step.ranks_per_clip, "ranks"
    if step.ranks_per_clip > 1:
        who = f"groups of {step.ranks_per_clip} ranks"
    clips = loop.batch_size * groups * step.accumulate
    left = max(loop.max_steps - start, 0)
    begun = f" after update {start}" if start else ""
    lines = {
        "parameters": f"{_number(own)} in {type(network).__name__}, {_number(trained)} trained",
        "update": f"{loop.batch_size} clips x {groups} {who} x {step.accumulate} batches: "
        f"{clips} clips",
        "length": f"{left} updates{begun}, {left * clips / num_videos:.4g} epochs of "
        f"{num_videos} videos",
        "memory": f"{_memory(step, own)}, on each rank; activations are not counted",
    }
    return "\n".join(f"  {name:<11}{text}" for name, text in lines.items())


def try_batch(step: TrainStep, term_names: tuple[str, ...], batch: Batch) -> None:
    """Log the loss of a batch; nothing is updated. Raises ValueError where it is not finite."""
    scalars = dict(zip(term_names, step.scalars_of(batch), strict=True))
    names = ", ".join(batch.videos)
    if not np.isfinite(list(scalars.values())).all():
        raise ValueError(f"The first batch has {scalars}. Its videos: {names}.")
    text = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
    logger.info("The first batch has %s. Its videos: %s.", text, names)


def _memory(step: TrainStep, own: list[Parameter]) -> str:
    state, known = step.optimizer_state, {id(parameter) for parameter in own}
    others = [p for p in step.weights if id(p) not in known]  # of the objective alone
    moments = [*state.first_moments, *state.second_moments]
    sizes = {
        "weights": _bytes([*own, *others]),
        "gradients": _bytes(step.weights) * (2 if step.accumulate > 1 else 1),
        "optimizer": _bytes(moments),
        "EMA": _bytes(p for averages in state.of_each[2:] for p in averages),
    }
    parts = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
    return f"{_size(sum(sizes.values()))}: {parts}"


def _number(parameters: Iterable[Parameter]) -> str:
    return f"{sum(parameter.size for parameter in parameters):,}"


def _bytes(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.size * parameter.itemsize for parameter in parameters)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
