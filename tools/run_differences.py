"""Whether two training runs have left the same: the files of their newest checkpoint, the rows."""

from pathlib import Path

from latte_ms.training import checkpoint
from latte_ms.training.history import read_history
from latte_ms.training.meter import COLUMNS as SPEED
from latte_ms.training.run_folder import CHECKPOINTS, HISTORY


def differences(output: Path, unbroken: Path) -> str:
    """Names what differs, bit for bit; empty if nothing does."""
    ours, theirs = (checkpoint.latest(path / CHECKPOINTS) for path in (output, unbroken))
    if ours is None or theirs is None or ours.name != theirs.name:
        return f"newest checkpoints: {ours}, {theirs}"
    names = {path.name for folder in (ours, theirs) for path in folder.iterdir()}
    for name in sorted(names):
        if not all((folder / name).is_file() for folder in (ours, theirs)):
            return f"only one has {name}"
        if (ours / name).read_bytes() != (theirs / name).read_bytes():
            return f"{name} differs"
    if rows(output) != rows(unbroken):
        return "histories differ"
    left = [path.name for path in output.rglob(".*")]
    return f"left: {left}" if left else ""


def rows(output: Path) -> list[dict[str, float]]:
    """The history without speed and times, which are others each time."""
    found = read_history(output / HISTORY)
    return [{key: value for key, value in row.items() if key not in SPEED} for row in found]
