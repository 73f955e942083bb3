"""Snapshots of power function averages while a run goes on, and averages of any length from them.

A snapshot is a folder `loop.output/ema_snapshots/<updates>` with a file for each length, all of
which are kept. `combined` makes what an average of another length would be (EDM2, section 3.2).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from latte_ms import weights
from latte_ms.atomic import atomic_folder, remove_folder, remove_partial
from latte_ms.training.checkpoint import numbered, path_of, under_names
from latte_ms.training.ema import Profile, posthoc_coefficients
from latte_ms.training.optimizer_state import States
from latte_ms.weights.checksums import verify_folder, write_checksums
from latte_ms.weights.recorded import STATE, TrainingState, write_state

SNAPSHOTS = "ema_snapshots"
_NAME = "sigma_rel_"


def save(
    folder: Path,
    network: nn.Cell,
    states: States,
    num_updates: int,
    identity: dict[str, Any],
) -> Path:
    """Write the averages after `num_updates` updates; returns the new folder in `folder`.

    `states` is a `TrainStep`, or what its `gathered_states` returns.
    """
    remove_partial(folder)
    target = path_of(folder, num_updates)
    with atomic_folder(target) as partial:
        for sigma_rel, averages in states.power_emas.items():
            parameters = under_names(network, f"ema_{sigma_rel:g}.", averages)
            weights.save(network, partial / _file(sigma_rel), parameters=parameters)
        write_state(partial, TrainingState(num_updates, identity))
        write_checksums(partial)
    return target


def remove_after(folder: Path, num_updates: int) -> None:
    """Remove the snapshots of updates after `num_updates`, which a run that goes on makes anew.

    Those of another course of the run would be taken for its own by `find`.
    """
    for path in numbered(folder):
        if int(path.name) > num_updates:
            remove_folder(path)


def find(folder: Path, last: int | None = None) -> dict[Profile, Path]:
    """The files of all snapshots in `folder`, up to update `last`, the newest last.

    Raises ValueError where there are none, or a file is not as it was written.
    """
    found: dict[Profile, Path] = {}
    for path in numbered(folder):
        files = sorted(path.glob(f"{_NAME}*.safetensors"))
        if files and (last is None or int(path.name) <= last):
            verify_folder(path, [STATE, *(file.name for file in files)])
            for file in files:
                found[int(path.name), float(file.stem.removeprefix(_NAME))] = file
    if not found:
        before = "" if last is None else f" up to update {last}"
        raise ValueError(
            f"{folder} has no snapshots{before}: training writes them with "
            "`optimizer.ema_sigma_rels`."
        )
    return found


def combined(stored: dict[Profile, Path], wanted: Profile) -> weights.Tensors:
    """The average `wanted`, computed tensor by tensor from the `stored` ones.

    Sums are float64, results as they are stored. Tensors that are the same in all snapshots, such
    as tables that are not trained, stay as they are.

    Raises ValueError where the snapshots are not of one network.
    """
    factors = posthoc_coefficients(list(stored), wanted)
    sources = [weights.read(path, None) for path in stored.values()]
    specs = sources[-1].specs
    for path, source in zip(stored.values(), sources, strict=True):
        if source.specs != specs:
            raise ValueError(f"{path} has other tensors than the newest snapshot.")
    return weights.Tensors(specs, lambda name: _sum([source[name] for source in sources], factors))


def _sum(arrays: Sequence[np.ndarray], factors: np.ndarray) -> np.ndarray:
    if all(np.array_equal(array, arrays[-1]) for array in arrays):
        return arrays[-1]
    total = np.zeros(arrays[-1].shape)
    for array, factor in zip(arrays, factors, strict=True):
        total += factor * array
    return total.astype(arrays[-1].dtype)


def _file(sigma_rel: float) -> str:
    return f"{_NAME}{sigma_rel:g}.safetensors"
