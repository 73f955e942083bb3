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

from latte_ms.schedulers.selection import LEARNED


@dataclass(frozen=True)
class Steps:
    """The timesteps of one run, the noisiest first."""

    timesteps: tuple[int | float, ...]
    order: int = 1  # network evaluations per user-visible step

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def progress(self) -> int:
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
    """Whether a step takes the variance that the network predicts after the noise.

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
) -> Steps:
    """Set `scheduler` to a run of `num_inference_steps`, or through `timesteps`.

    A `strength` below 1 runs that share of the steps, the last ones.

    Raises:
        ValueError: the scheduler takes no timesteps from the user, has fewer steps than requested,
            or `strength` leaves too few.
    """
    if timesteps is None:
        _check_steps(scheduler, num_inference_steps)
        scheduler.set_timesteps(num_inference_steps)
    elif "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        last = scheduler.config.num_train_timesteps - 1
        if min(timesteps) < 0 or max(timesteps) > last:
            raise ValueError(f"`timesteps` must be from 0 to {last}, got {list(timesteps)}.")
        scheduler.set_timesteps(timesteps=[int(t) for t in timesteps])
        num_inference_steps = len(timesteps)
    else:
        raise ValueError(f"`timesteps` cannot be chosen with {type(scheduler).__name__}.")
    count = min(int(num_inference_steps * strength), num_inference_steps)
    first = (num_inference_steps - count) * scheduler.order
    least = _least_steps(scheduler)
    if count < least:
        raise ValueError(
            f"`strength` (={strength}) of `num_inference_steps` (={num_inference_steps}) must "
            f"leave at least {least} step{'s' if least > 1 else ''}, got {count}."
        )
    if first and least > 1:
        scheduler.keep_last_steps(count)
        first = 0
    chosen = scheduler.timesteps.asnumpy()[first:].tolist()
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return Steps(tuple(chosen), scheduler.order)


def _check_steps(scheduler: Any, count: int) -> None:
    most = scheduler.config.num_train_timesteps
    if not 1 <= count <= most:
        raise ValueError(f"`num_inference_steps` must be from 1 to {most}, got {count}.")
    least = _least_steps(scheduler)
    if count < least:
        raise ValueError(
            f"`num_inference_steps` (={count}) must be at least {least} for PNDM's Runge-Kutta "
            "steps, or set `skip_prk_steps`."
        )


def _least_steps(scheduler: Any) -> int:
    """The fewest steps of a run: PNDM with Runge-Kutta steps needs all of those."""
    runge_kutta = hasattr(scheduler, "pndm_order") and not scheduler.config.skip_prk_steps
    return int(scheduler.pndm_order) if runge_kutta else 1


def step_options(
    scheduler: Any, eta: float, generators: list[np.random.Generator]
) -> dict[str, Any]:
    """The arguments that this scheduler's `step` takes besides output, timestep and sample."""
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": eta, "generator": generators}
    return {name: value for name, value in options.items() if name in accepted}


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, steps: Steps) -> Tensor:
    """`latents` noised to the level at which a run through `steps` begins."""
    first = np.full((latents.shape[0],), steps.timesteps[0])
    return scheduler.add_noise(latents, noise, Tensor(first))
