"""The loop: exact resumption, and no way of ending that loses what was learned."""

import dataclasses
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.runtime import Rank
from latte_ms.training import checkpoint, loop
from latte_ms.training.batch import LatentBatch
from latte_ms.training.history import read_history
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.meter import COLUMNS
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.run_folder import CHECKPOINTS, CURVES, HISTORY, RunFolder
from latte_ms.training.snapshots import SNAPSHOTS
from latte_ms.training.watch import DivergedError, Watch

Batches = Callable[[int], Iterator[LatentBatch]]


def poison(batch: LatentBatch) -> LatentBatch:
    """The batch with latents of NaN."""
    return dataclasses.replace(batch, latents=batch.latents * np.nan)


def config(output: Path, max_steps: int, **fields: object) -> LoopConfig:
    defaults = {"log_every": 1, "save_every": 1000}
    return LoopConfig(output=str(output), max_steps=max_steps, **(defaults | fields))  # type: ignore[arg-type]


def train(trainer: object, batches: Batches, settings: LoopConfig, **changes: object) -> Path:
    identity = {"network": dataclasses.asdict(trainer.network.config) | changes}
    term_names, optimizer = DenoisingObjective.term_names, trainer.optimizer
    with RunFolder(settings, identity, Rank()) as folder:
        return loop.train(trainer.network, trainer.step, term_names, batches, optimizer, folder)


def resumed_state(trainer: object, output: Path) -> tuple[int, dict[str, np.ndarray]]:
    """The newest checkpoint's update number and what it holds."""
    newest = checkpoint.latest(output / CHECKPOINTS)
    assert newest is not None
    trainer.reset()
    identity = {"network": dataclasses.asdict(trainer.network.config)}
    done = checkpoint.resume(newest, trainer.network, trainer.step, identity)
    return done, trainer.state()


def equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def history(output: Path) -> list[dict[str, float]]:
    """Rows without speed and times, which are others each time."""
    rows = read_history(output / HISTORY)
    return [{key: row[key] for key in row if key not in COLUMNS} for row in rows]


@pytest.fixture(scope="module")
def straight(
    shared_trainer: object, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Batches], tuple[dict[str, np.ndarray], list[dict[str, float]]]]:
    """Six updates in one go: the state and the history, computed once."""
    results: list[tuple[dict[str, np.ndarray], list[dict[str, float]]]] = []

    def run(batches: Batches) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        if not results:
            output = tmp_path_factory.mktemp("straight")
            shared_trainer.reset()
            train(shared_trainer, batches, config(output, 6))
            results.append((shared_trainer.state(), history(output)))
        shared_trainer.reset()
        return results[0]

    return run


@pytest.mark.slow
def test_three_and_three_updates_equal_six(
    trainer: object, batches: Batches, straight: Callable[..., object], tmp_path: Path
) -> None:
    state, rows = straight(batches)
    train(trainer, batches, config(tmp_path, 3))
    trainer.reset()  # as a new process would start
    last = train(trainer, batches, config(tmp_path, 6))
    assert last == tmp_path / CHECKPOINTS / "0000006"
    assert equal(trainer.state(), state)
    assert history(tmp_path) == rows
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / CURVES).stat().st_size > 1000


def test_a_finished_run_is_left_as_it_is(trainer: object, batches: Batches, tmp_path: Path) -> None:
    last = train(trainer, batches, config(tmp_path, 2))
    written = {p: p.stat().st_mtime_ns for p in last.iterdir()}
    trainer.reset()

    def must_not_be_read(_: int) -> Iterator[LatentBatch]:
        raise AssertionError("a finished run reads no data")
        yield

    assert train(trainer, must_not_be_read, config(tmp_path, 2)) == last
    assert {p: p.stat().st_mtime_ns for p in last.iterdir()} == written
    assert [row["step"] for row in history(tmp_path)] == [1, 2]


def test_snapshots_of_updates_after_the_checkpoint_are_removed(
    trainer: object, batches: Batches, tmp_path: Path
) -> None:
    """They would be averaged with those that the run now makes."""

    def left_by(others: tuple[str, ...]) -> list[str]:
        for name in others:
            (tmp_path / SNAPSHOTS / name).mkdir(parents=True)
        train(trainer, batches, config(tmp_path, 1))
        return [path.name for path in (tmp_path / SNAPSHOTS).iterdir()]

    assert left_by(("0000001", "0000002")) == [], "the run starts anew"
    assert left_by(("0000001", "0000002")) == ["0000001"]


def test_checkpoints_come_at_their_intervals(
    trainer: object, batches: Batches, tmp_path: Path
) -> None:
    train(trainer, batches, config(tmp_path, 5, save_every=2, keep_checkpoints=2, log_every=2))
    folders = sorted(p.name for p in (tmp_path / CHECKPOINTS).iterdir())
    assert folders == ["0000004", "0000005"]
    assert [row["step"] for row in history(tmp_path)] == [2, 4, 5]


def test_another_run_in_the_folder_is_refused(
    trainer: object, batches: Batches, tmp_path: Path
) -> None:
    train(trainer, batches, config(tmp_path, 1))
    with pytest.raises(ValueError, match=r"network.depth was 2, is 6"):
        train(trainer, batches, config(tmp_path, 2), depth=6)


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_exception_from_the_data_saves_what_was_learned(
    trainer: object,
    batches: Batches,
    straight: Callable[..., object],
    tmp_path: Path,
    error: type[BaseException],
) -> None:
    state, rows = straight(batches)

    def failing(start: int) -> Iterator[LatentBatch]:
        for number, batch in enumerate(batches(start), start):
            if number == 4:
                raise error
            yield batch

    with pytest.raises(error):
        train(trainer, failing, config(tmp_path, 6))
    done, _ = resumed_state(trainer, tmp_path)
    assert done == 4
    trainer.reset()
    train(trainer, batches, config(tmp_path, 6))
    assert equal(trainer.state(), state)
    assert history(tmp_path) == rows


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_update(
    trainer: object,
    batches: Batches,
    straight: Callable[..., object],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    state, rows = straight(batches)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def signalling(start: int) -> Iterator[LatentBatch]:
        for i, batch in enumerate(batches(start), start):
            if i == 2:
                os.kill(os.getpid(), number)
            yield batch

    with pytest.raises(SystemExit) as caught:
        train(trainer, signalling, config(tmp_path, 6))
    assert caught.value.code in (128 + number, 128 + signal.SIGTERM)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    done, _ = resumed_state(trainer, tmp_path)
    assert done == 3, "the update that was running is finished"
    trainer.reset()
    train(trainer, batches, config(tmp_path, 6))
    assert equal(trainer.state(), state)
    assert history(tmp_path) == rows


def poisoned_from(batches: Batches, first: int) -> Batches:
    """The batches with their names; those from number `first` on have latents of NaN."""

    def source(start: int) -> Iterator[LatentBatch]:
        for number, batch in enumerate(batches(start), start):
            named = dataclasses.replace(batch, videos=(f"{number}/a.mp4", f"{number}/b.mp4"))
            yield poison(named) if number >= first else named

    return source


def test_an_update_that_fails_ends_the_run_with_its_batch_and_the_last_checkpoint(
    trainer: object, batches: Batches, tmp_path: Path
) -> None:
    """It is found when the next row is due, and named; what was saved before stays."""
    good = tmp_path / CHECKPOINTS / "0000004"
    expected = (
        r"gradient norm of update 6 is nan\. Videos of its batch: 5/a\.mp4, 5/b\.mp4\. "
        rf"Nothing of it is saved; the last good checkpoint is {good}\."
    )
    settings = config(tmp_path, 20, save_every=2, log_every=7, keep_checkpoints=1)
    with pytest.raises(DivergedError, match=expected):
        train(trainer, poisoned_from(batches, 5), settings)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["0000004"]
    done, state = resumed_state(trainer, tmp_path)
    assert done == 4
    assert all(np.isfinite(array).all() for array in state.values())
    assert history(tmp_path) == []
    assert (tmp_path / CURVES).is_file()
    trainer.reset()
    train(trainer, batches, config(tmp_path, 5))
    assert history(tmp_path)[-1]["skipped"] == 0, "the failed update was not saved"


def test_an_update_that_failed_unseen_is_not_saved_when_the_run_is_interrupted(
    trainer: object, batches: Batches, tmp_path: Path
) -> None:
    def interrupted(start: int) -> Iterator[LatentBatch]:
        for number, batch in enumerate(poisoned_from(batches, 2)(start), start):
            if number == 4:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(DivergedError, match=r"update 3 is nan.*; there is no earlier checkpoint\."):
        train(trainer, interrupted, config(tmp_path, 20, log_every=10))
    assert not (tmp_path / CHECKPOINTS).exists()


def test_overflows_under_a_dynamic_loss_scale_end_a_run_when_the_scale_cannot_be_the_cause() -> (
    None
):
    watch, batch = Watch(scaled=True, rank=Rank(1, 2)), LatentBatch(*[np.zeros(1)] * 3)
    norms = [*[np.inf] * 50, 1.0, *[np.nan] * 50]
    for number, norm in enumerate(norms, 1):
        watch.add(number, [batch], Tensor(norm, ms.float32))
        if watch.is_due:
            watch.raise_if_failed(None)
    watch.add(102, [dataclasses.replace(batch, videos=("a", "b"))], Tensor(np.inf, ms.float32))
    words = (
        r"update 102, and in the 50 updates before it, is inf\. Videos of its batch on rank 1: a, b"
    )
    for _ in range(2):
        with pytest.raises(DivergedError, match=words):
            watch.raise_if_failed(Path("last"))


def test_a_row_says_where_the_time_went(
    trainer: object, batches: Batches, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(start: int) -> Iterator[LatentBatch]:
        for batch in batches(start):
            time.sleep(0.2)
            yield batch

    begun = time.perf_counter()
    settings = config(tmp_path, 4, log_every=2, save_every=1, batch_size=2, keep_checkpoints=1)
    with caplog.at_level(logging.INFO):
        train(trainer, slow, settings)
    total = time.perf_counter() - begun
    rows = read_history(tmp_path / HISTORY)
    assert list(rows[0]) == [
        *("step", "loss", "mse", "vb", "grad_norm", "learning_rate", "skipped"),
        *("clips_per_second", "data_seconds", "compute_seconds", "checkpoint_seconds"),
    ]
    seconds = [sum(row[name] for name in COLUMNS[1:]) for row in rows]
    assert sum(seconds) < total
    for row, interval in zip(rows, seconds, strict=True):
        assert 0.4 <= row["data_seconds"] < interval
        assert row["checkpoint_seconds"] > 0 < row["compute_seconds"]
        assert row["clips_per_second"] == pytest.approx(2 * 2 / interval, rel=1e-3)
    estimates = re.findall(r"An update takes ([\d.]+) s; about 0:00:0\d .*", caplog.text)
    assert len(estimates) == 1
    assert 0.2 <= float(estimates[0]) < total


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_steps", 0),
        ("batch_size", 0),
        ("accumulate", 0),
        ("log_every", 0),
        ("save_every", -1),
        ("keep_checkpoints", -1),
        ("seed", -1),
        ("num_workers", 0),
        ("max_steps", 10**12),
        ("save_every", 10**12),
        ("log_every", 10**12),
        ("keep_checkpoints", 10**12),
        ("batch_size", 10**9),
        ("num_workers", 10**6),
        ("seed", 2**63),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"`loop.{field}`.*{value}"):
        LoopConfig(output="x", **{field: value})
