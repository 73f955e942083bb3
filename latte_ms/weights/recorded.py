"""What a training run records together with the weights of a checkpoint: `state.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.atomic import atomic_file

STATE = "state.json"


@dataclass(frozen=True)
class TrainingState:
    """The record of one checkpoint.

    Attributes:
        step: number of updates that were made when it was saved.
        identity: the configuration that a resumed run must match, in sections such as `network` and
            `diffusion`.
    """

    step: int
    identity: dict[str, Any]

    @property
    def network(self) -> dict[str, Any] | None:
        """Fields of the network's configuration; None where the run recorded none."""
        return self.identity.get("network")

    @property
    def lora(self) -> dict[str, Any] | None:
        """What the LoRA matrices of the checkpoint belong to; None where it holds all weights."""
        return self.identity.get("lora")

    @property
    def diffusion(self) -> dict[str, Any] | None:
        """Fields of the diffusion process's configuration; None where the run recorded none."""
        return self.identity.get("diffusion")


def read_state(folder: str | Path) -> TrainingState | None:
    """The record in a checkpoint folder; None where `folder` has none, or is a file.

    Raises ValueError, with the path of the record, where it is damaged.
    """
    path = Path(folder) / STATE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        state = TrainingState(values["step"], values["identity"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    if type(state.step) is not int or state.step < 0:
        raise ValueError(f"{path} is damaged: its `step` must be a whole number from 0 on.")
    if not isinstance(state.identity, dict):
        raise ValueError(f"{path} is damaged: its `identity` must be an object of fields.")
    for name, section in (("network", state.network), ("diffusion", state.diffusion)):
        if not isinstance(section, dict | None):
            raise ValueError(f"{path} is damaged: its `{name}` must be an object of fields.")
    return state


def write_state(folder: str | Path, state: TrainingState) -> None:
    """Write the record into a checkpoint folder."""
    values = {"step": state.step, "identity": state.identity}
    with atomic_file(Path(folder) / STATE) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
