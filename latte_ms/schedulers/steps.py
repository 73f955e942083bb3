"""One run of a scheduler: its timesteps, its start, the options of its steps.

A scheduler is called with Python numbers as timesteps, and told its first index, so that it does
not search for it on the device.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor

from latte_ms.schedulers.checks import (
    check_chosen,
    check_count,
    check_schedule,
    check_settings,
    least_steps,
)
from latte_ms.schedulers.selection import LEARNED


@dataclass(frozen=True)
class StepPlan:
    """The timesteps of one run, the noisiest first."""

    timesteps: tuple[int | float, ...]
    order: int = 1  # network evaluations per user-visible step

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def num_user_steps(self) -> int:
        """User-visible steps, which a progress bar counts."""
        return -(-len(self) // self.order)


def copy_of(scheduler: Any) -> Any:
    """A scheduler with the same settings for one run: nothing that a run changes is shared."""
    clone = copy.copy(scheduler)
    for name, value in vars(clone).items():
        if isinstance(value, list):
            setattr(clone, name, list(value))
    return clone


def uses_variance(scheduler: Any) -> bool:
    """Whether a step takes the predicted variance, whose channels follow those of the noise.

    Only DDPM's does. Others may carry a `variance_type`, taken over from DDPM's settings; it has
    no effect (see `selection` for DPM-Solver's).
    """
    is_ddpm = any(kind.__name__ == "DDPMScheduler" for kind in type(scheduler).__mro__)
    return is_ddpm and scheduler.config.variance_type in LEARNED


def set_steps(
    scheduler: Any,
    num_inference_steps: int,
    timesteps: Sequence[int] | None = None,
    strength: float = 1.0,
    like_diffusers: bool = False,
) -> StepPlan:
    """Set `scheduler` to a run of `num_inference_steps`, or through `timesteps`.

    A `strength` below 1 runs that share of the steps, the last ones. `like_diffusers` keeps
    diffusers' rules where they end before the clean sample; see `latte_ms.schedulers.discrete`.

    Raises:
        ValueError: the scheduler takes no timesteps from the user, cannot have that many steps,
            its settings do not fit together, or `strength` leaves too few steps.
    """
    scheduler.like_diffusers = like_diffusers
    check_settings(scheduler)
    if timesteps is None:
        check_count(scheduler, num_inference_steps)
        scheduler.set_timesteps(int(num_inference_steps))
        _drop_step_after_the_last(scheduler, int(num_inference_steps))
        check_schedule(scheduler, num_inference_steps)
        total = int(scheduler.num_inference_steps)
    else:
        check_chosen(scheduler, timesteps)
        scheduler.set_timesteps(timesteps=[int(t) for t in timesteps])
        check_schedule(scheduler, num_inference_steps, timesteps)
        total = len(timesteps)
    count = min(int(total * strength), total)
    least = least_steps(scheduler)
    if count < least:
        raise ValueError(
            f"`strength` (={strength}) of `num_inference_steps` (={total}) must "
            f"leave at least {least} step{'s' if least > 1 else ''}, got {count}."
        )
    first = _begin(scheduler, total, count)
    return StepPlan(tuple(scheduler.timesteps.asnumpy()[first:].tolist()), scheduler.order)


def _begin(scheduler: Any, total: int, count: int) -> int:
    """The index of the timestep where the last `count` of `total` steps begin."""
    first = (total - count) * scheduler.order
    stages = hasattr(scheduler, "keep_last_steps")
    if first and stages and not (scheduler.like_diffusers and scheduler.config.skip_prk_steps):
        scheduler.keep_last_steps(count)
        first = 0
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return first


def _drop_step_after_the_last(scheduler: Any, count: int) -> None:
    """Undo an error of the library's "trailing" spacing, which may add a step at timestep -1.

    It does where the length of a step is rounded down, as that of 61 steps is.
    """
    timesteps = scheduler.timesteps.asnumpy()
    if getattr(scheduler.config, "timestep_spacing", None) != "trailing" or timesteps[-1] != -1:
        return
    stages = scheduler.order
    scheduler.timesteps = Tensor(timesteps[:-stages])
    scheduler.num_inference_steps = count
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas.asnumpy()
        scheduler.sigmas = Tensor(np.append(sigmas[: -1 - stages], sigmas[-1:]))


def step_options(
    scheduler: Any, eta: float, generators: list[np.random.Generator]
) -> dict[str, Any]:
    """The arguments that this scheduler's `step` takes besides output, timestep and sample."""
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": eta, "generator": generators}
    return {name: value for name, value in options.items() if name in accepted}


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, steps: StepPlan) -> Tensor:
    """`latents` noised to the level at which a run through `steps` begins."""
    first = np.full((latents.shape[0],), steps.timesteps[0])
    return scheduler.add_noise(latents, noise, Tensor(first))
