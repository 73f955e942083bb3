"""The history of a run: one CSV row per logged step, and a plot of the curves."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.extras import needs


class History:
    """Appends rows to `path`; rows from step `start_step` on are dropped first, when resuming."""

    def __init__(self, path: Path, columns: tuple[str, ...], start_step: int = 0) -> None:
        self.path, self.columns = path, ("step", *columns)
        earlier = [row for row in _rows(path) if int(row["step"]) < start_step]
        with (
            atomic_file(path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(earlier)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write one row and close the file, so that it survives if the run is killed."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            row = {"step": step, **{key: f"{value:.6g}" for key, value in values.items()}}
            csv.DictWriter(file, self.columns).writerow(row)


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of a history file; none where the file is missing."""
    return [{key: float(value) for key, value in row.items() if value} for row in _rows(path)]


def figure_class() -> Any:
    """matplotlib's `Figure`. Raises MissingExtraError where it is not installed."""
    with needs("train", "The plot of the curves"):
        from matplotlib.figure import Figure
    return Figure


def plot_history(path: Path, image: Path, columns: tuple[str, ...]) -> None:
    """Draw `columns` of the history file over the steps into a PNG, each with its moving mean."""
    rows = read_history(path)
    figure = figure_class()(figsize=(5 * len(columns), 3.6))
    axes = figure.subplots(1, len(columns), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        steps = np.array([row["step"] for row in rows if column in row])
        values = np.array([row[column] for row in rows if column in row])
        axis.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
        window = max(1, len(values) // 25)
        if len(values) >= window > 1:
            mean = np.convolve(values, np.ones(window) / window, "valid")
            axis.plot(steps[window - 1 :], mean, color="tab:blue", linewidth=1.8)
        axis.set_xlabel("step")
        axis.set_title(column.replace("_", " "))
        if len(values) and values.min() > 0:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_file(image) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows as written, without a last one that a killed run wrote only in part."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
