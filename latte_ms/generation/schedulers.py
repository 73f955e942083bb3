"""The schedulers of text to video: mindone's, by name, and how the pipelines ask them.

A scheduler is asked with Python's numbers for timesteps, and told its first index, so that it need
not search for it on the device.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from latte_ms.config import read_json
from latte_ms.generation.scheduler_repairs import begin_with_runge_kutta, repair

CONFIG = "scheduler_config.json"
LIBRARY = "mindone.diffusers.schedulers"
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "dpm_single": "DPMSolverSinglestepScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "deis": "DEISMultistepScheduler",
    "kdpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
LEARNED = ("learned", "learned_range")


def create(name: str, config: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """The scheduler `name` ("ddim" or "DDIMScheduler") with the settings of another's `config`.

    Settings that the class does not have are left out of what it does; `changes` win.

    Raises:
        ValueError: no such scheduler.
        ImportError: mindone is not installed.
    """
    settings = {**(config or {}), **changes}
    settings.pop("_class_name", None)
    return prepare(_class_of(name).from_config(settings))


def load(folder: str | Path, name: str | None = None, **changes: Any) -> Any:
    """The scheduler of a pipeline's `scheduler` folder, or `name` with its settings.

    Raises:
        FileNotFoundError: there is no scheduler_config.json.
        ValueError: it names a scheduler that is not one of `SCHEDULERS`.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"`scheduler` must be a folder with {CONFIG}, got {folder}.")
    config = read_json(path)
    return create(name or config.get("_class_name", ""), config, **changes)


def prepare(scheduler: Any) -> Any:
    """`scheduler` itself, made fit for networks that predict a variance.

    DPM-Solver would keep three channels of a network's output where its `variance_type` says that
    it predicts a variance; here it is handed the noise alone, so the setting is cleared.

    Raises:
        ValueError: it is none of the library's `SCHEDULERS`.
    """
    library()
    known = [
        kind.__name__
        for kind in type(scheduler).__mro__
        if kind.__name__ in SCHEDULERS.values() and kind.__module__.startswith("mindone.")
    ]
    if not known:
        kind = type(scheduler)
        raise ValueError(
            f"`scheduler` must be one of {list(SCHEDULERS.values())} of {LIBRARY}, "
            f"got {kind.__module__}.{kind.__qualname__}."
        )
    variance = getattr(scheduler.config, "variance_type", None)
    if variance in LEARNED and known[0].startswith("DPMSolver"):
        scheduler.register_to_config(variance_type=None)
    return scheduler


def uses_variance(scheduler: Any) -> bool:
    """Whether a step wants the variance that the network predicts, behind the noise.

    Only DDPM knows what to do with one. Other schedulers may carry a `variance_type` in their
    settings, taken over from DDPM's, and mean nothing by it.
    """
    is_ddpm = any(kind.__name__ == "DDPMScheduler" for kind in type(scheduler).__mro__)
    return is_ddpm and scheduler.config.variance_type in LEARNED


@dataclass(frozen=True)
class Steps:
    """The timesteps of one run, first the noisiest."""

    timesteps: tuple[int | float, ...]
    first_index: int = 0  # of the scheduler's own list: above 0 where a run starts later
    order: int = 1  # network evaluations per step that a user counts

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def progress(self) -> int:
        """Steps that a progress bar counts."""
        return -(-len(self) // self.order)


def set_steps(
    scheduler: Any,
    num_inference_steps: int,
    timesteps: Sequence[int] | None = None,
    strength: float = 1.0,
) -> Steps:
    """Set the scheduler to a run of `num_inference_steps`, or through `timesteps`.

    `strength` below 1 leaves out the first steps: its share of them is run.

    Raises:
        ValueError: the scheduler takes no timesteps of the user's, has fewer steps than asked for,
            or `strength` leaves none.
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
    kept = min(int(num_inference_steps * strength), num_inference_steps)
    first = (num_inference_steps - kept) * scheduler.order
    least = _least_steps(scheduler)
    if kept < least:
        raise ValueError(
            f"`strength` (={strength}) of `num_inference_steps` (={num_inference_steps}) must "
            f"leave at least {least} step{'s' if least > 1 else ''}, got {kept}."
        )
    if first and least > 1:
        begin_with_runge_kutta(scheduler, kept)
        first = 0
    chosen = scheduler.timesteps.asnumpy()[first:].tolist()
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return Steps(tuple(chosen), first, scheduler.order)


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
    """Steps that a run must have: PNDM's that begin with Runge-Kutta go through all of those."""
    runge_kutta = hasattr(scheduler, "pndm_order") and not scheduler.config.skip_prk_steps
    return int(scheduler.pndm_order) if runge_kutta else 1


def step_options(
    scheduler: Any, eta: float, generators: list[np.random.Generator]
) -> dict[str, Any]:
    """The arguments that this scheduler's `step` takes beside sample, noise and timestep."""
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": eta, "generator": generators}
    return {name: value for name, value in options.items() if name in accepted}


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, steps: Steps) -> Tensor:
    """Clean `latents` as noisy as a run through `steps` expects them at its start."""
    first = np.full((latents.shape[0],), steps.timesteps[0])
    return scheduler.add_noise(latents, noise, Tensor(first))


def _class_of(name: str) -> Any:
    full = SCHEDULERS.get(name, name)
    if full not in SCHEDULERS.values():
        raise ValueError(
            f"`scheduler` must be one of {list(SCHEDULERS)} (or its class's name), got {name!r}."
        )
    return getattr(library(), full)


@cache
def library() -> Any:
    """mindone's schedulers, with what they lack put right. Raises ImportError without mindone."""
    try:
        module = importlib.import_module(LIBRARY)
    except ModuleNotFoundError as error:
        raise ImportError(f"Schedulers need the package mindone ({error}).") from error
    repair(module)
    return module
