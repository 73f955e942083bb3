"""What must hold before the first step of a scheduler's run.

Some settings do not fit together, and some numbers of steps have no schedule: a run would raise
another kind of error on its way, turn into NaN, or end at something that is not a sample.
"""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from latte_ms.messages import shown
from latte_ms.options import one_of
from latte_ms.schedulers.tables import host_table

NOISE_OR_V = ("epsilon", "v_prediction")
PREDICTIONS = {
    "PNDMScheduler": NOISE_OR_V,
    "EulerAncestralDiscreteScheduler": NOISE_OR_V,
    "KDPM2AncestralDiscreteScheduler": NOISE_OR_V,
    "EulerDiscreteScheduler": (*NOISE_OR_V, "sample", "original_sample"),
    "DPMSolverMultistepScheduler": (*NOISE_OR_V, "sample", "flow_prediction"),
    "DPMSolverSinglestepScheduler": (*NOISE_OR_V, "sample", "flow_prediction"),
    "DEISMultistepScheduler": (*NOISE_OR_V, "sample", "flow_prediction"),
    "UniPCMultistepScheduler": (*NOISE_OR_V, "sample", "flow_prediction"),
}
OWN_SPACING = ("DPMSolverSinglestepScheduler", "LCMScheduler", "TCDScheduler")
VARIANCES = (None, "fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")
MAX_SKIP_WEIGHT = 1e-3  # of c_skip, the weight of the noisy sample in LCM's last step


def check_settings(scheduler: Any) -> None:
    """Raise ValueError for settings with which no run ends at a sample."""
    name, config = type(scheduler).__name__, scheduler.config
    allowed = PREDICTIONS.get(name, (*NOISE_OR_V, "sample"))
    one_of(*allowed)("prediction_type", config.prediction_type)
    if name == "DDPMScheduler":
        one_of(*VARIANCES)("variance_type", config.variance_type)
    if name == "EulerDiscreteScheduler" and config.interpolation_type != "linear":
        raise ValueError(
            "`interpolation_type` must be 'linear', whose sigmas belong to the timesteps, "
            f"got {shown(config.interpolation_type)}; `use_exponential_sigmas` has them log-linear."
        )


def check_count(scheduler: Any, count: Any) -> None:
    """Raise ValueError unless `count` is a number of steps that this scheduler can have."""
    bound = "num_train_timesteps"
    if "original_inference_steps" in inspect.signature(scheduler.set_timesteps).parameters:
        bound = "original_inference_steps"
    most = scheduler.config[bound]
    if not _is_whole(count):
        raise ValueError(f"`num_inference_steps` must be a whole number, got {shown(count)}.")
    if not 1 <= count <= most:
        raise ValueError(
            f"`num_inference_steps` must be from 1 to {most}, got {count} "
            f"(`{bound}` of {type(scheduler).__name__} is {most})."
        )
    least = least_steps(scheduler)
    if count < least:
        raise ValueError(
            f"`num_inference_steps` (={count}) must be at least {least} for PNDM's Runge-Kutta "
            "steps, or set `skip_prk_steps`."
        )
    if count == 2 and least_steps(scheduler) == 1 and hasattr(scheduler, "pndm_order"):
        _check_two_steps(scheduler)


def check_chosen(scheduler: Any, timesteps: Sequence[Any]) -> None:
    """Raise ValueError unless this scheduler can run through these `timesteps`."""
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"`timesteps` cannot be chosen with {type(scheduler).__name__}.")
    chosen, last = list(timesteps), scheduler.config.num_train_timesteps - 1
    whole = chosen and all(_is_whole(t) and 0 <= t <= last for t in chosen)
    if not whole or any(b >= a for a, b in pairwise(chosen)):
        raise ValueError(
            f"`timesteps` must be descending whole numbers from 0 to {last}, got {chosen}."
        )


def check_schedule(scheduler: Any, count: int, chosen: Sequence[int] | None = None) -> None:
    """Raise ValueError unless the run that was set goes from noise to less noise.

    `count` steps were asked for, or the timesteps `chosen`.
    """
    asked = _asked(scheduler, count) if chosen is None else f"`timesteps` (={list(chosen)})"
    last = scheduler.config.num_train_timesteps - 1
    timesteps = host_table(scheduler, "timesteps")
    if not _are_logarithms(scheduler) and not (0 <= timesteps.min() <= timesteps.max() <= last):
        raise ValueError(
            f"{asked}: the timesteps go from {timesteps.max():g} to {timesteps.min():g}, and must "
            f"be from 0 to {last}."
        )
    if hasattr(scheduler, "sigmas"):
        levels = host_table(scheduler, "sigmas")[: -1 : scheduler.order]
        if not (np.diff(levels) < 0).all():
            raise ValueError(f"{asked}: a level of noise is repeated; take fewer steps.")
    else:
        _check_ends(scheduler, timesteps, asked)


def least_steps(scheduler: Any) -> int:
    """The fewest steps of a run: PNDM with Runge-Kutta steps needs all of those."""
    runge_kutta = hasattr(scheduler, "pndm_order") and not scheduler.config.skip_prk_steps
    return int(scheduler.pndm_order) if runge_kutta else 1


def _check_two_steps(scheduler: Any) -> None:
    """Raise ValueError where PNDM's doubled first step would lead from noise to timestep 0."""
    if scheduler.config.timestep_spacing == "linspace":
        raise ValueError(
            "`num_inference_steps` (=2) must be another number for PNDM with `skip_prk_steps` and "
            "`timestep_spacing` (='linspace'): correcting a first step from pure noise to timestep "
            "0 magnifies rounding errors a hundred times."
        )


def _check_ends(scheduler: Any, timesteps: np.ndarray, asked: str) -> None:
    """Raise ValueError where the first timestep is noise alone, or LCM's last is too near 0."""
    config = scheduler.config
    first, last = int(timesteps[0]), int(timesteps[-1])
    if config.prediction_type == "epsilon" and host_table(scheduler, "alphas_cumprod")[first] == 0:
        raise ValueError(
            f"{asked}: the first timestep is {first}, which `rescale_betas_zero_snr` makes noise "
            "alone: `prediction_type` must be 'v_prediction' or 'sample', got 'epsilon'."
        )
    if type(scheduler).__name__ == "LCMScheduler":
        skip_weight, _ = scheduler.get_scalings_for_boundary_condition_discrete(last)
        if skip_weight > MAX_SKIP_WEIGHT:
            raise ValueError(
                f"{asked}: the last timestep is {last}, where LCM returns the noisy sample; it "
                f"must be larger, or `timestep_scaling` (={config.timestep_scaling})."
            )


def _asked(scheduler: Any, count: int) -> str:
    """The options that set the timesteps of `count` steps."""
    if type(scheduler).__name__ in OWN_SPACING:
        return f"`num_inference_steps` (={count})"
    config = scheduler.config
    return (
        f"`num_inference_steps` (={count}), `timestep_spacing` "
        f"(={shown(config.timestep_spacing)}) and `steps_offset` (={config.steps_offset})"
    )


def _are_logarithms(scheduler: Any) -> bool:
    """Whether timesteps are log sigma / 4: Euler's for continuous time."""
    continuous = getattr(scheduler.config, "timestep_type", None) == "continuous"
    is_euler = type(scheduler).__name__ == "EulerDiscreteScheduler"
    return is_euler and continuous and scheduler.config.prediction_type == "v_prediction"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
