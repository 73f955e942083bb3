"""Checkpoints of a run: folders that hold the weights, their average and the optimiser's state.

A folder is complete or absent: it is written under another name and renamed. `model.safetensors`
and `ema.safetensors` carry the reference's names, so `weights.load` and the reference read them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn
from safetensors.numpy import save_file

from latte_ms import weights
from latte_ms.training.step import TrainStep

MODEL, AVERAGE, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.safetensors"
STATE = "state.json"


def path_of(folder: Path, done: int) -> Path:
    """Where the checkpoint after `done` updates lies."""
    return folder / f"{done:07d}"


def save(
    folder: Path, network: nn.Cell, step: TrainStep, done: int, identity: dict[str, Any], keep: int
) -> Path:
    """Write `folder/<done>` and remove all but the newest `keep` (0 keeps all).

    Args:
        done: updates made so far.
        identity: what a resumed run must agree on, such as the network's configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for remains in folder.glob(".*.partial"):  # of a run that was killed while it saved
        shutil.rmtree(remains)
    target = path_of(folder, done)
    partial = folder / f".{target.name}.partial"
    partial.mkdir()
    weights.save(network, partial / MODEL)
    weights.save(network, partial / AVERAGE, parameters=average_of(network, step))
    state = {name: np.atleast_1d(parameter.asnumpy()) for name, parameter in step.state.items()}
    save_file(state, partial / OPTIMIZER)
    (partial / STATE).write_text(
        json.dumps({"step": done, "identity": identity}, indent=2) + "\n", encoding="utf-8"
    )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in _complete(folder)[:-keep] if keep else []:
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`."""
    return next(reversed(_complete(folder)), None)


def check_identity(path: Path, identity: dict[str, Any]) -> int:
    """Updates made before the checkpoint `path`.

    Raises ValueError when it is damaged, or of a run with another identity; the message names the
    keys that differ.
    """
    done, theirs = _read_state(path)
    ours = dict(_flat(json.loads(json.dumps(identity))))
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if differing:
        raise ValueError(
            f"`loop.output` holds checkpoints of another run ({path}): "
            + "; ".join(f"{key} was {theirs.get(key)}, is {ours.get(key)}" for key in differing)
            + ". Choose another folder, or the same values."
        )
    return done


def resume(path: Path, network: nn.Cell, step: TrainStep, identity: dict[str, Any]) -> int:
    """Load the checkpoint `path` into the cells; returns the updates made before it.

    Raises ValueError as `check_identity`, or when a file does not fit.
    """
    done = check_identity(path, identity)
    weights.load(network, path / MODEL)
    weights.load(network, path / AVERAGE, parameters=average_of(network, step))
    stored = weights.read(path / OPTIMIZER)
    for name, parameter in _wanted(step, stored, path / OPTIMIZER).items():
        parameter.set_data(Tensor(stored[name].reshape(parameter.shape)))
    return done


def _wanted(step: TrainStep, stored: weights.Tensors, file: Path) -> dict[str, Parameter]:
    """The parameters of `step.state` to load; raises ValueError where `stored` does not fit them.

    A loss scale is left as a new run has it where only one of the two runs scales its loss.
    """
    wanted = step.state
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing[:3])}.")
    for name, parameter in wanted.items():
        shape = parameter.shape or (1,)
        if stored.specs[name].shape != shape:
            raise ValueError(f"{file}: {name} must be {shape}, got {stored.specs[name].shape}.")
    # Without scaling no step is counted as a good one; an overflow at a scale of 1 looks the same.
    scaled = bool(stored["loss_scale"] != 1 or stored["good_steps"] != 0)
    if scaled != step.scale_loss:
        del wanted["loss_scale"], wanted["good_steps"]
    return wanted


def average_of(network: nn.Cell, step: TrainStep) -> dict[str, Parameter]:
    """The running average under the network's parameter names; fixed tables are the network's."""
    averages = {p.name.removeprefix("ema."): p for p in step.ema}
    return {name: averages.get(p.name, p) for name, p in network.parameters_and_names()}


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, the newest last."""
    paths = (path.parent for path in folder.glob(f"*/{STATE}"))
    return sorted((path for path in paths if path.name.isdecimal()), key=lambda p: int(p.name))


def _read_state(path: Path) -> tuple[int, dict[str, Any]]:
    """Updates made before the checkpoint, and its run's identity, flat."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return int(state["step"]), dict(_flat(state["identity"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path / STATE} is damaged; remove the folder to go on.") from error


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as pairs of a dotted key and a value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
