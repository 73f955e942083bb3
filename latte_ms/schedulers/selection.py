"""Schedulers by name: mindone's class, or the repaired subclass where there is one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latte_ms.config import read_json
from latte_ms.extras import needs
from latte_ms.messages import shown
from latte_ms.options import one_of
from latte_ms.schedulers.configuration import check_config

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
RESCALE = "rescale_betas_zero_snr"
LEARNED = ("learned", "learned_range")


def create(name: str, config: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """The scheduler `name` ("ddim" or "DDIMScheduler") with the settings of another's `config`.

    Settings that the class does not have are kept in its config without effect; `changes` override.

    Raises:
        ValueError: `name` is not one of `SCHEDULERS`, a setting breaks its rule, or UniPC is to
            rescale its betas.
        MissingExtraError: mindone is not installed.
    """
    check_name(name)
    settings = {**(config or {}), **changes}
    settings.pop("_class_name", None)
    if SCHEDULERS.get(name, name) == SCHEDULERS["unipc"] and settings.get(RESCALE):
        raise ValueError(
            f"`{RESCALE}` must be false for UniPC, whose betas the library cannot rescale."
        )
    check_config(settings)
    try:
        scheduler = _class_of(SCHEDULERS.get(name, name)).from_config(settings)
    except NotImplementedError as error:  # a value that another of the classes supports
        raise ValueError(f"`scheduler` cannot be made: {error}.") from error
    return _without_learned_variance(scheduler)


def load(folder: str | Path, name: str | None = None, **changes: Any) -> Any:
    """The scheduler of a pipeline's `scheduler` folder, or `name` with its settings.

    Raises:
        FileNotFoundError: scheduler_config.json is missing.
        ValueError: it names a scheduler that is not one of `SCHEDULERS`.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"`scheduler` must be a folder with {CONFIG}, got {folder}.")
    config = read_json(path)
    try:
        if name is None:
            name = config.get("_class_name")
            one_of(*SCHEDULERS.values())("_class_name", name)
        return create(str(name), config, **changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is one of `SCHEDULERS`, or the name of its class."""
    if not isinstance(name, str) or name not in {*SCHEDULERS, *SCHEDULERS.values()}:
        raise ValueError(
            f"`scheduler` must be one of {list(SCHEDULERS)} (or the name of its class), "
            f"got {shown(name)}."
        )


def adopt(scheduler: Any) -> Any:
    """`scheduler` itself, or its repaired copy with the same settings where it needs one.

    Raises:
        ValueError: its class is not one of `SCHEDULERS`.
    """
    kinds = [
        kind
        for kind in type(scheduler).__mro__
        if kind.__name__ in SCHEDULERS.values() and kind.__module__.startswith(LIBRARY)
    ]
    if not kinds:
        other = type(scheduler)
        raise ValueError(
            f"`scheduler` must be one of {list(SCHEDULERS.values())} of {LIBRARY}, "
            f"got {other.__module__}.{other.__qualname__}."
        )
    kind, repaired = kinds[0], _class_of(kinds[0].__name__)
    if type(scheduler) is kind and repaired is not kind:
        settings: Any = scheduler.config  # type: ignore[attr-defined]
        scheduler = repaired.from_config(settings)
    return _without_learned_variance(scheduler)


def _without_learned_variance(scheduler: Any) -> Any:
    """`scheduler`, or for a DPM-Solver with a learned variance a copy without one.

    With one, DPM-Solver would keep three entries of axis 1 (channels in diffusers, frames here) of
    the output.
    """
    learned = getattr(scheduler.config, "variance_type", None) in LEARNED
    if learned and any(kind.__name__.startswith("DPMSolver") for kind in type(scheduler).__mro__):
        return type(scheduler).from_config(scheduler.config, variance_type=None)
    return scheduler


def _class_of(name: str) -> Any:
    """The library's class of this name, or our subclass of it."""
    with needs("t2v", "A scheduler"):
        from latte_ms.schedulers.repaired import class_of
    return class_of(name)
