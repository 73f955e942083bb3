"""Choose the length of the weights' average after training, from the snapshots of a run.

    python tools/posthoc_ema.py outputs/run --sigma-rel 0.08 --target outputs/run/ema_0.08

`sigma_rel` is the width of a power function average relative to the length of the run (EDM2,
arXiv 2312.02696), from 0.005 to 0.2887; the run has to have had `optimizer.ema_sigma_rels`. The
target is a folder of weights that records its network, as `weights` of a sampling recipe.
"""

import argparse
import shutil
import sys
from pathlib import Path

from latte_ms import weights
from latte_ms.atomic import atomic_folder
from latte_ms.progress import progress
from latte_ms.training.ema import Profile, check_sigma_rel, posthoc_error
from latte_ms.training.snapshots import SNAPSHOTS, combined, find
from latte_ms.weights.checksums import write_checksums
from latte_ms.weights.convert import is_within, refuse_removal
from latte_ms.weights.recorded import STATE

_NAME = "ema.safetensors"


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        check_sigma_rel("--sigma-rel", options.sigma_rel)
        _check_target(options)
        stored = find(options.run / SNAPSHOTS, options.step)
        wanted = (_step(stored, options.step), options.sigma_rel)
        _write(stored, wanted, options.target)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    missed = posthoc_error(list(stored), wanted)
    print(
        f"written: {options.target}: sigma_rel {wanted[1]:g} after {wanted[0]} updates, from "
        f"{len(stored)} averages; its profile is missed by {missed:.2%}."
    )
    return 0


def _check_target(options: argparse.Namespace) -> None:
    """Raise ValueError for a target that exists, or that would replace the run or its snapshots."""
    target, snapshots = options.target, options.run / SNAPSHOTS
    refuse_removal(target, snapshots)
    if is_within(target, snapshots):
        raise ValueError(f"`--target` must not lie in {snapshots}, got {target}.")
    if target.exists() and not options.force:
        raise ValueError(f"`--target` exists: {target}; give --force to replace it.")


def _step(stored: dict[Profile, Path], asked: int | None) -> int:
    """The number of updates of the average. Raises ValueError beyond those of the snapshots."""
    newest = max(n for n, _ in stored)
    if asked is not None and asked > newest:
        raise ValueError(
            f"`--step` must be at most {newest}, that of the newest snapshot, got {asked}."
        )
    return newest if asked is None else asked


def _write(stored: dict[Profile, Path], wanted: Profile, target: Path) -> None:
    newest = list(stored.values())[-1].parent
    tensors = combined(stored, wanted)
    with atomic_folder(target) as partial:
        with progress(total=tensors.nbytes, unit="B", unit_scale=True, desc=target.name) as bar:
            weights.write(partial / _NAME, {"": tensors}, progress=bar.update)
        shutil.copyfile(newest / STATE, partial / STATE)
        write_checksums(partial)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="`loop.output` of the run")
    add("--sigma-rel", type=float, required=True, help="length of the average")
    add("--target", type=Path, required=True, help="folder to write")
    add("--step", type=int, help="number of updates; default: those before the newest snapshot")
    add("--force", action="store_true", help="replace the target")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
