"""The history of a run: one CSV row per logged step, and a plot of the curves."""

import csv
import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.atomic import atomic_file, writing
from latte_ms.extras import needs

logger = logging.getLogger(__name__)

_COLOUR = "tab:blue"
_POINTS = 1000  # of a smoothed curve


class History:
    """Appends rows to `path`; rows from step `start_step` on are dropped first, when resuming.

    Columns that only the earlier rows have stay, and are empty from then on. A damaged file is
    copied aside; its readable rows are kept.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], start_step: int = 0) -> None:
        self.path = path
        self._missing = b""  # rows that could not be written yet
        rows, damaged = _rows(path)
        if damaged:
            aside = path.with_name(f"{path.name}.damaged")
            with writing(aside):
                shutil.copyfile(path, aside)
            logger.warning(
                "%s has %d damaged lines, which are left out; it is kept as %s.",
                *(path, damaged, aside.name),
            )
        earlier = [row for row in rows if int(row["step"]) < start_step]
        before = [name for name in (earlier[0] if earlier else ()) if any(r[name] for r in earlier)]
        self.columns = tuple(dict.fromkeys(("step", *columns, *before)))
        with atomic_file(path) as partial:
            partial.write_bytes(self._lines(earlier, header=True))

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write one row and close the file, so that it survives if the run is killed.

        A row that could not be written is retried before the next one. Raises WriteError.
        """
        row = {"step": str(step), **{key: f"{value:.6g}" for key, value in values.items()}}
        self._missing += self._lines([row])
        self._write_missing()

    def sync(self) -> None:
        """Return when all rows are on the disk. Raises WriteError."""
        self._write_missing()
        with writing(self.path), self.path.open("rb+") as file:
            os.fsync(file.fileno())

    def _write_missing(self) -> None:
        """Append the missing rows; all of them, or nothing."""
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            rest = memoryview(self._missing if end else self._lines([], True) + self._missing)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise
        self._missing = b""

    def _lines(self, rows: list[dict[str, str]], header: bool = False) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of a history file, without damaged ones; none where the file is missing."""
    return [{key: float(value) for key, value in row.items() if value} for row in _rows(path)[0]]


def figure_class() -> Any:
    """matplotlib's `Figure`. Raises MissingExtraError where it is not installed."""
    with needs("train", "The plot of the curves"):
        from matplotlib.figure import Figure
    return Figure


def plot_history(path: Path, image: Path, columns: tuple[str, ...]) -> None:
    """Draw `columns` of the history file over the steps into a PNG, with their smoothed curves.

    A column without a finite value gets no panel. The axis is logarithmic where all of its values
    are above 0.
    """
    rows = read_history(path)
    series = {name: [(row["step"], row[name]) for row in rows if name in row] for name in columns}
    series = {name: pairs for name, pairs in series.items() if np.isfinite(pairs).any(0).all()}
    figure = figure_class()(figsize=(5 * max(1, len(series)), 3.6))
    axes = figure.subplots(1, max(1, len(series)), squeeze=False)[0]
    for axis, (name, pairs) in zip(axes, series.items(), strict=False):
        steps, values = np.array(pairs).T
        finite = np.isfinite(values)
        marker = "o" if len(values) == 1 else ""
        raw = np.where(finite, values, np.nan)
        axis.plot(steps, raw, color=_COLOUR, alpha=0.25, linewidth=0.8, marker=marker)
        axis.plot(*smoothed(steps, values), color=_COLOUR, linewidth=1.8)
        axis.set_title(name.replace("_", " "))
        if values[finite].min() > 0:
            axis.set_yscale("log")
    for axis in axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_file(image) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Up to 1000 of N steps, and there the mean of the values around, weighted by their distance.

    The weights are those of a normal distribution whose standard deviation is 2% of N. Values that
    are not finite are left out, and so are steps with none that is finite around them.
    """
    size = -(-len(values) // _POINTS)
    starts = np.arange(0, len(values), size)
    finite = np.isfinite(values)
    counts = np.add.reduceat(finite.astype(float), starts)
    sums = np.add.reduceat(np.where(finite, values, 0.0), starts)
    middles = np.add.reduceat(steps, starts) / np.diff([*starts, len(values)])
    deviation = len(starts) / 50
    reach = min(int(4 * deviation), len(starts) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    window = slice(reach, reach + len(starts))
    total, weight = (np.convolve(part, kernel)[window] for part in (sums, counts))
    known = weight > 0
    return middles[known], total[known] / weight[known]


def _rows(path: Path) -> tuple[list[dict[str, str]], int]:
    """Rows as written, and the number of damaged lines.

    A last row that a killed run wrote only in part is neither.
    """
    if not path.is_file():
        return [], 0
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        del lines[-1]
    texts = [line.decode("utf-8", errors="replace").strip() for line in lines]
    cells = [text.split(",") for text in texts if text]
    columns = cells[0] if cells else []
    if columns[:1] != ["step"] or not all(name.isidentifier() for name in columns):
        return [], len(cells)
    rows = [dict(zip(columns, row, strict=True)) for row in cells[1:] if _fits(row, columns)]
    return rows, len(cells) - 1 - len(rows)


def _fits(row: list[str], columns: list[str]) -> bool:
    """Whether a line has a step, and a number or nothing in each further column."""
    if len(row) != len(columns) or not (row[0].isascii() and row[0].isdecimal()):
        return False
    try:
        for value in row[1:]:
            float(value or "nan")
    except ValueError:
        return False
    return True
