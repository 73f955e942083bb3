"""Checkpoints of a run: folders that hold the weights, their average and the optimiser's state.

A folder is complete or absent: it is written under another name and renamed. `model.safetensors`
and `ema.safetensors` carry the reference's names, so `weights.load` and the reference read them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn
from safetensors.numpy import load_file, save_file

from latte_ms import weights
from latte_ms.training.step import TrainStep

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


def save(
    folder: Path, network: nn.Cell, step: TrainStep, done: int, identity: dict[str, Any], keep: int
) -> Path:
    """Write `folder/<done>` and remove all but the newest `keep` (0 keeps all).

    Args:
        done: updates made so far.
        identity: what a resumed run must agree on, such as the network's configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / f"{done:07d}", folder / f".{done:07d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    weights.save(network, partial / "model.safetensors")
    weights.save(network, partial / "ema.safetensors", parameters=average_of(network, step))
    save_file(
        {name: np.atleast_1d(p.asnumpy()) for name, p in _state(step).items()}, partial / OPTIMIZER
    )
    state = {"step": done, "identity": identity}
    (partial / STATE).write_text(json.dumps(state, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    if keep:
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`."""
    return max(_complete(folder), default=None)


def resume(path: Path, network: nn.Cell, step: TrainStep, identity: dict[str, Any]) -> int:
    """Load the checkpoint `path` into the cells; returns the updates made before it.

    Raises ValueError when it is of a run with another identity, naming the keys that differ.
    """
    state = json.loads((path / STATE).read_text())
    ours = json.loads(json.dumps(identity))
    differing = [key for key in ours if state["identity"].get(key) != ours[key]]
    if differing:
        raise ValueError(
            f"`loop.output` holds checkpoints of another run ({path}): "
            + "; ".join(
                f"{key} was {state['identity'].get(key)}, is {ours[key]}" for key in differing
            )
            + ". Choose another folder, or the same values."
        )
    weights.load(network, path / "model.safetensors")
    weights.load(network, path / "ema.safetensors", parameters=average_of(network, step))
    stored = load_file(path / OPTIMIZER)
    for name, parameter in _state(step).items():
        if name not in stored:
            raise ValueError(f"{path / OPTIMIZER} lacks {name!r}.")
        parameter.set_data(Tensor(stored[name].reshape(parameter.shape)))
    return int(state["step"])


def average_of(network: nn.Cell, step: TrainStep) -> dict[str, Parameter]:
    """The running average under the network's parameter names; fixed tables are the network's."""
    averages = {p.name.removeprefix("ema."): p for p in step.averages}
    return {name: averages.get(p.name, p) for name, p in network.parameters_and_names()}


def _complete(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"[0-9]*/{STATE}"))


def _state(step: TrainStep) -> dict[str, Parameter]:
    own = [*step.first_moments, *step.second_moments, step.loss_scale, step.good_steps]
    return {parameter.name: parameter for parameter in own}
