"""The CSV of a run, and its plot."""

import logging
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latte_ms.atomic import WriteError
from latte_ms.training.history import History, plot_history, read_history, smoothed

COLUMNS = ("loss", "norm")


def written(path: Path, steps: range, start: int = 0) -> list[dict[str, float]]:
    history = History(path, COLUMNS, start)
    for step in steps:
        history.append(step, {"loss": 1.0 / step, "norm": 10.0})
    return read_history(path)


def test_rows_come_back(tmp_path: Path) -> None:
    rows = written(tmp_path / "h.csv", range(1, 4))
    assert [row["step"] for row in rows] == [1.0, 2.0, 3.0]
    np.testing.assert_allclose([row["loss"] for row in rows], [1, 1 / 2, 1 / 3], rtol=1e-5)
    assert read_history(tmp_path / "none.csv") == []


def test_resuming_drops_the_rows_that_come_again(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    written(path, range(1, 6))
    text = path.read_text()
    rows = written(path, range(4, 6), start=4)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert path.read_text() == text, "remaining rows are as they were written"
    assert [p.name for p in tmp_path.iterdir()] == ["h.csv"]


def test_an_incomplete_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    written(path, range(1, 4))
    with path.open("a") as file:
        file.write("4,0.2")
    assert len(read_history(path)) == 3
    assert [row["step"] for row in written(path, range(4, 5), start=100)] == [1, 2, 3, 4]


def test_other_columns_than_before_do_not_stop_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    written(path, range(1, 3))
    history = History(path, ("loss", "extra"), 10)
    history.append(3, {"loss": 0.5, "extra": 2.0})
    rows = read_history(path)
    assert [set(row) for row in rows] == [{"step", *COLUMNS}] * 2 + [{"step", "loss", "extra"}]
    assert path.read_text().splitlines()[0] == "step,loss,extra,norm"


def test_values_that_are_not_finite_are_written_and_drawn(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    history = History(path, COLUMNS)
    for step in range(60):
        history.append(step, {"loss": float("nan") if step == 3 else 2.0 + step, "norm": 0.0})
    assert np.isnan(read_history(path)[3]["loss"])
    plot_history(path, tmp_path / "h.png", COLUMNS)
    with Image.open(tmp_path / "h.png") as image:
        assert image.width > image.height > 200


def test_only_columns_with_values_get_a_panel(tmp_path: Path) -> None:
    widths = []
    for columns in (("loss",), ("loss", "norm"), ("loss", "absent", "norm", "never_finite")):
        history = History(tmp_path / "h.csv", (*COLUMNS, "never_finite"))
        history.append(1, {"loss": 1.0, "norm": 2.0, "never_finite": np.nan})
        plot_history(history.path, tmp_path / "h.png", columns)
        with Image.open(tmp_path / "h.png") as image:
            widths.append(image.width)
    assert widths == [550, 1100, 1100]


def test_a_smoothed_curve_follows_the_mean_and_leaves_out_what_is_not_finite() -> None:
    steps = np.arange(1.0, 501.0)
    values = 3.0 + 0.5 * (-1.0) ** steps
    values[[7, 8, 300]] = np.nan, np.inf, -np.inf
    x, y = smoothed(steps, values)
    np.testing.assert_array_equal(x, steps)
    np.testing.assert_allclose(y[50:-50], 3.0, atol=0.05)
    np.testing.assert_allclose(y, 3.0, atol=0.2)
    x, y = smoothed(np.arange(10_001.0), np.full(10_001, 2.0))
    assert len(x) <= 1000
    assert (x[0], x[-1]) == (5.0, 9999.5)
    np.testing.assert_allclose(y, 2.0)
    x, y = smoothed(np.array([4.0]), np.array([0.5]))
    assert (x.tolist(), y.tolist()) == ([4.0], [0.5])


def test_a_plot_of_no_rows_is_written_too(tmp_path: Path) -> None:
    History(tmp_path / "h.csv", COLUMNS)
    plot_history(tmp_path / "h.csv", tmp_path / "h.png", COLUMNS)
    assert (tmp_path / "h.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda text: text.replace(b"\n2,0.5", b"\n2,\xff\x00"), [1, 3]),
        (lambda text: text.replace(b"\n2,0.5,10", b"\n2,0.5"), [1, 3]),
        (lambda text: text.replace(b"\n2,", b"\n1e999,"), [1, 3]),
        (lambda text: text.replace(b"\n2,", b"\n-2,"), [1, 3]),
        (lambda text: text.replace(b"step,", b"st\x00p,"), []),
        (lambda text: text.replace(b"loss,", b"l\xffss,"), []),
        (lambda text: bytes(5000) + b"\n" + text, []),
    ],
)
def test_a_damaged_history_is_named_and_does_not_stop_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object, left: list[int]
) -> None:
    path = tmp_path / "h.csv"
    written(path, range(1, 4))
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        rows = written(path, range(4, 5), start=4)
    assert [row["step"] for row in rows] == [*left, 4]
    assert f"{path} has" in caplog.text
    assert "it is kept as h.csv.damaged" in caplog.text
    assert (tmp_path / "h.csv.damaged").read_bytes() == damaged


def test_a_row_cut_within_a_number_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "h.csv"
    written(path, range(1, 4))
    path.write_bytes(path.read_bytes()[:-3])  # "10\r\n" without its last digit
    assert [row["step"] for row in read_history(path)] == [1, 2]
    assert [row["step"] for row in written(path, range(3, 4), start=3)] == [1, 2, 3]
    assert caplog.text == "", "a killed run leaves that"


def test_a_row_without_room_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    history = History(path, COLUMNS)
    history.append(1, {"loss": 1.0, "norm": 10.0})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"h\.csv cannot be written: File too large"):
            history.append(2, {"loss": 0.5, "norm": 10.0})
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    history.append(3, {"loss": 0.25, "norm": 10.0})
    history.sync()
    assert [(row["step"], row["loss"]) for row in read_history(path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.25),
    ]
