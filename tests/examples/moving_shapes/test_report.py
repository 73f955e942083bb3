"""Reports of comparisons: means, tables, plots."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from examples.moving_shapes import report


def test_means_are_over_all_rows_or_none() -> None:
    rows = [{"accuracy": 0.25, "motion": 1.0}, {"accuracy": 0.75, "motion": None}]
    assert report.mean_and_deviation(rows, "accuracy") == "50.0 ± 25.0"
    assert report.mean_and_deviation(rows[:1], "motion") == "1.00 ± 0.00"
    assert report.mean_and_deviation(rows, "motion") == "-"
    assert report.table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_plots_have_a_palette(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot(np.arange(5))
    report.write_plot(figure, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert (image.mode, image.size) == ("P", (160, 80))
