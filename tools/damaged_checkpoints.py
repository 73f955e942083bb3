"""Damage to the newest checkpoint of a run, after which the run must go on from the one before."""

import random
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle, islice, product
from pathlib import Path

from latte_ms.training import checkpoint
from latte_ms.training.run_folder import CHECKPOINTS
from latte_ms.weights.checksums import CHECKSUMS
from tools.run_differences import differences
from tools.tiny_runs import TinyRuns
from tools.tiny_training import SAVE_EVERY

_BEFORE, _END = 2 * SAVE_EVERY, 3 * SAVE_EVERY  # updates: of two checkpoints, of the whole run


def damages(runs: TinyRuns, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(what was done to which file, what is wrong then) for `count` cases.

    They go through the files of a checkpoint and the ways to damage each, at places from `seed`.
    """
    begun, unbroken = runs.folder / "begun", runs.folder / "unbroken"
    runs.finish(begun, _BEFORE)
    shutil.copytree(begun, unbroken)
    runs.finish(unbroken, _END)
    newest = checkpoint.latest(begun / CHECKPOINTS)
    assert newest is not None
    names = sorted(path.name for path in newest.iterdir())
    rng = random.Random(seed)
    for name, way in islice(cycle(product(names, WAYS)), count):
        work = runs.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(begun, work)
        file = work / CHECKPOINTS / newest.name / name
        done = WAYS[way](file, rng)
        # Without checksums a checkpoint is one of an earlier version, and its files are whole.
        is_seen = name != CHECKSUMS or way != "removed"
        yield f"{name} {done}", outcome(runs, work, unbroken, newest.name if is_seen else "")


def outcome(runs: TinyRuns, work: Path, unbroken: Path, named: str) -> str:
    """Let the run in `work` end; says what is wrong with the end.

    It must be that of `unbroken`, with a message about the checkpoint `named`, or a clear error.
    """
    with runs.started(work, _END) as run:
        status = run.wait()
    if "Traceback" in run.text or status not in (0, 2):
        return f"status {status}: {run.text.strip().splitlines()[-1:]}"
    if named not in run.text:
        return f"no word of {named}"
    if status == 0:
        return differences(work, unbroken)
    errors = [line for line in run.text.splitlines() if line.startswith("error: ")]
    return "" if len(errors) == 1 else f"status 2 without one error: {errors}"


def cut(file: Path, rng: random.Random) -> str:
    """Keep the beginning of the file."""
    size = rng.randrange(1, file.stat().st_size)
    with file.open("r+b") as opened:
        opened.truncate(size)
    return f"cut to {size} bytes"


def emptied(file: Path, _: random.Random) -> str:
    """Keep nothing of the file but its name."""
    file.write_bytes(b"")
    return "emptied"


def flipped(file: Path, rng: random.Random) -> str:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    position, bit = rng.randrange(len(content)), rng.randrange(8)
    content[position] ^= 1 << bit
    file.write_bytes(content)
    return f"with bit {bit} of byte {position} flipped"


def removed(file: Path, _: random.Random) -> str:
    """Remove the file."""
    file.unlink()
    return "removed"


WAYS: dict[str, Callable[[Path, random.Random], str]] = {
    "cut": cut,
    "emptied": emptied,
    "flipped": flipped,
    "removed": removed,
}
