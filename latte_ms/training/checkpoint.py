"""Checkpoints of a training run: folders of weights, their EMA and the optimizer's state.

A checkpoint folder is complete or absent, and records the checksums of its files. One that was
damaged later is set aside, and the newest intact one is used. `model.safetensors` and
`ema.safetensors` have the reference's names, so `weights.load` and the reference read them. Those
of a run that trains LoRA matrices hold these alone, as `adapters.read` reads them.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from latte_ms import weights
from latte_ms.atomic import atomic_folder, remove_folder, remove_partial
from latte_ms.messages import differences
from latte_ms.training import trained_weights
from latte_ms.training.optimizer_state import States
from latte_ms.training.step import TrainStep
from latte_ms.weights.checksums import verify_folder, write_checksums
from latte_ms.weights.recorded import STATE, TrainingState, read_state, write_state

logger = logging.getLogger(__name__)

MODEL, EMA, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.safetensors"
_TENSOR_FILES = (MODEL, EMA, OPTIMIZER)
_DAMAGED = ".damaged"
_SKIPPED = "skipped_updates"  # a name in `TrainStep.state`
_POWER_PREFIX = "ema_"  # of the names of power function averages there


def path_of(folder: Path, num_updates: int) -> Path:
    """The path of the checkpoint after `num_updates` updates."""
    return folder / f"{num_updates:07d}"


def save(
    folder: Path,
    network: nn.Cell,
    train_step: TrainStep,
    num_updates: int,
    identity: dict[str, Any],
    keep: int,
    states: States | None = None,
) -> Path:
    """Write `folder/<num_updates>`, then remove what is older than the newest `keep`.

    Args:
        train_step: whose state is saved.
        num_updates: number of updates so far.
        identity: the configuration that a resumed run must match, such as the network's.
        keep: number of checkpoints to keep; 0 removes none.
        states: `train_step.gathered_states()`, which all ranks must call where states are divided.
    """
    states = train_step if states is None else states
    remove_partial(folder)
    target = path_of(folder, num_updates)
    with atomic_folder(target) as partial:
        trained_weights.save(network, partial / MODEL)
        trained_weights.save(network, partial / EMA, ema_of(network, states))
        further = _further(network, train_step.weights, states)
        state = {name: parameter.asnumpy() for name, parameter in further.items()}
        state |= _timestep_state(train_step)
        arrays = {name: np.atleast_1d(array) for name, array in state.items()}
        weights.write(partial / OPTIMIZER, {"": weights.from_arrays(arrays)})
        write_state(partial, TrainingState(num_updates, identity))
        write_checksums(partial)
    complete = [path for path in numbered(folder) if (path / STATE).is_file()]
    if 0 < keep <= len(complete):
        for old in numbered(folder):
            if int(old.name) < int(complete[-keep].name):
                remove_folder(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, not verified; see `check_intact`."""
    complete = (path for path in reversed(numbered(folder)) if (path / STATE).is_file())
    return next(complete, None)


def at(folder: Path, num_updates: int) -> Path:
    """The checkpoint after `num_updates` updates. Raises ValueError where there is none."""
    for path in numbered(folder):
        if int(path.name) == num_updates:
            return path
    raise ValueError(
        f"The checkpoint after {num_updates} updates is missing in {folder}: `loop.output` must be "
        "a folder that all machines of a run share."
    )


def newest_intact(folder: Path, identity: dict[str, Any]) -> int:
    """Number of updates in the newest intact checkpoint in `folder`; 0 where there are none.

    Newer ones that are damaged are renamed, with a warning.

    Raises ValueError where there are checkpoints, but no intact one, or where the newest intact
    one is of another run.
    """
    damaged: dict[Path, ValueError] = {}
    for path in reversed(numbered(folder)):
        try:
            check_intact(path)
        except ValueError as error:
            damaged[path] = error
            continue
        num_updates = check_identity(path, identity)
        for newer, reason in damaged.items():
            _set_aside(newer, reason, path)
        return num_updates
    if damaged:
        reasons = " ".join(map(str, damaged.values()))
        raise ValueError(
            f"`loop.output` has no intact checkpoint to go on from. {reasons} Move the checkpoints "
            "away to start anew."
        )
    return 0


def check_intact(path: Path) -> None:
    """Raise ValueError unless the checkpoint `path` is as it was saved.

    Of one without checksums, as earlier versions wrote it, the files must have their right sizes.
    """
    has_checksums = verify_folder(path, (*_TENSOR_FILES, STATE))
    state = read_state(path)
    if state is None:
        raise ValueError(f"{path} is no complete checkpoint: {STATE} is missing.")
    if state.step != int(path.name):
        raise ValueError(f"{path / STATE} is damaged: its `step` is {state.step}.")
    if not has_checksums:
        for name in _TENSOR_FILES:
            weights.read(path / name)


def check_identity(path: Path, identity: dict[str, Any]) -> int:
    """Number of updates in the checkpoint `path`.

    Raises ValueError when it is damaged, or of a run with another identity; the message names the
    keys that differ.
    """
    state = read_state(path)
    if state is None:
        raise ValueError(f"{path} is not a checkpoint: {STATE} is missing.")
    found = list(differences(state.identity, json.loads(json.dumps(identity))))
    if found:
        raise ValueError(
            f"`loop.output` holds checkpoints of another run ({path}): "
            + "; ".join(f"{key} was {before}, is {now}" for key, before, now in found)
            + ". Choose another folder, or the same values."
        )
    return state.step


def resume(path: Path, network: nn.Cell, train_step: TrainStep, identity: dict[str, Any]) -> int:
    """Load the checkpoint `path` into the cells; returns the number of updates in it.

    Every rank must call it. Raises ValueError as `check_identity`, or when a file does not fit.
    """
    num_updates = check_identity(path, identity)
    trained_weights.load(network, path / MODEL)
    states = train_step.gathered_states(everywhere=True)
    trained_weights.load(network, path / EMA, ema_of(network, states))
    stored = weights.read(path / OPTIMIZER)
    parameters = _restorable(network, train_step, states, stored, path / OPTIMIZER)
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(stored[name].reshape(parameter.shape)))
    train_step.restore(states)
    if train_step.timestep_sampler is not None:
        train_step.timestep_sampler.load(
            {name: stored[name] for name in _timestep_state(train_step)}
        )
    return num_updates


def _further(network: nn.Cell, trainable: ParameterTuple, states: States) -> dict[str, Parameter]:
    """All that a run keeps besides the network's weights and their EMA, by name.

    Besides `TrainStep.state` these are weights of the objective alone, and their EMA.
    """
    own = {id(parameter) for parameter in network.get_parameters()}
    pairs = zip(trainable, states.ema, strict=True)
    others = [p for pair in pairs if id(pair[0]) not in own for p in pair]
    return {parameter.name: parameter for parameter in others} | states.state


def _timestep_state(train_step: TrainStep) -> dict[str, np.ndarray]:
    """What the timesteps of the next batches depend on, by name."""
    return {} if train_step.timestep_sampler is None else train_step.timestep_sampler.state


def _restorable(
    network: nn.Cell, train_step: TrainStep, states: States, stored: weights.Tensors, file: Path
) -> dict[str, Parameter]:
    """The parameters of `_further` to load; raises ValueError unless `stored` fits them.

    The loss scale is not restored if only one of the two runs scales its loss, and a count of
    skipped updates starts from zero where `stored`, of an earlier version, has none.
    """
    state = _further(network, train_step.weights, states)
    if _SKIPPED not in stored:
        del state[_SKIPPED]
    shapes = {name: tuple(parameter.shape) or (1,) for name, parameter in state.items()}
    shapes |= {name: array.shape for name, array in _timestep_state(train_step).items()}
    missing = [name for name in shapes if name not in stored]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing[:3])}.{_advice(missing)}")
    for name, shape in shapes.items():
        if stored.specs[name].shape != shape:
            raise ValueError(f"{file}: {name} must be {shape}, got {stored.specs[name].shape}.")
    # An unscaled run has scale 1 and 0 good steps; a scaled run looks the same right after an
    # overflow at scale 1.
    scaled = bool(stored["loss_scale"] != 1 or stored["good_steps"] != 0)
    if scaled != train_step.scale_loss:
        del state["loss_scale"], state["good_steps"]
    return state


def _advice(missing: list[str]) -> str:
    """What to do about state that a checkpoint lacks because an option was off before."""
    if any(name.startswith(_POWER_PREFIX) for name in missing):
        return " A run must have `optimizer.ema_sigma_rels` from its beginning, or never."
    return ""


def ema_of(network: nn.Cell, states: States) -> dict[str, Parameter]:
    """The EMA, of a `TrainStep` or its `gathered_states`, under the network's parameter names."""
    return under_names(network, "ema.", states.ema)


def under_names(network: nn.Cell, prefix: str, averages: ParameterTuple) -> dict[str, Parameter]:
    """Averages, named `prefix` + the weight's name, under the network's parameter names.

    What is not averaged, such as fixed tables, is the network's own.
    """
    found = {p.name.removeprefix(prefix): p for p in averages}
    return {name: found.get(p.name, p) for name, p in network.parameters_and_names()}


def numbered(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints, the newest last."""
    names = (path for path in folder.glob("*") if path.name.isascii() and path.name.isdecimal())
    return sorted((path for path in names if path.is_dir()), key=lambda path: int(path.name))


def _set_aside(path: Path, reason: ValueError, instead: Path) -> None:
    """Rename a damaged checkpoint; an earlier damaged one of the same name is removed."""
    target = path.with_name(path.name + _DAMAGED)
    if target.is_dir():
        remove_folder(target)
    path.rename(target)
    logger.warning("%s Renamed to %s; the run goes on from %s.", reason, target.name, instead)
