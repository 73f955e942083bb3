"""The training loop: update, log, save, and stop without losing updates."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from latte_ms.parallel.ranks import Ranks
from latte_ms.parallel.stop import StopRequest
from latte_ms.progress import progress
from latte_ms.training import checkpoint, snapshots
from latte_ms.training.batch import Batch
from latte_ms.training.history import History, plot_history
from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.optimizer_state import States
from latte_ms.training.recipe import LoopConfig
from latte_ms.training.run_folder import CURVES, HISTORY, RunFolder
from latte_ms.training.step import TrainStep

logger = logging.getLogger(__name__)

_PATIENCE = 50  # consecutive logged updates with a non-finite value after which a run ends

Batches = Callable[[int], Iterator[Batch]]


class DivergedError(RuntimeError):
    """Loss or gradient stays infinite or NaN."""


class RunWriter:
    """Writes history, curves and checkpoints to the folder of the run; only the first rank does."""

    def __init__(
        self, network: nn.Cell, step: TrainStep, terms: tuple[str, ...], folder: RunFolder
    ) -> None:
        self.network, self.step, self.folder = network, step, folder
        self.curves = (*terms, "grad_norm")
        self.columns = (*self.curves, "learning_rate", "steps_per_second")
        self.saved = self.drawn = 0  # number of updates in the newest checkpoint, in the curves
        self.history: History | None = None

    def begin(self, ranks: Ranks) -> int:
        """Load the run's checkpoint, if any; returns the number of updates before it."""
        self.saved = ranks.of_first(self.folder.start)
        if self.saved:
            path = checkpoint.at(self.folder.checkpoints, self.saved)
            checkpoint.resume(path, self.network, self.step, self.folder.identity)
        if self.folder.rank.is_first:
            self.history = History(self.folder.path / HISTORY, self.columns, self.saved + 1)
        return self.saved

    def log(self, num_updates: int, values: list[float]) -> None:
        """Write one row of the history."""
        if self.history is not None:
            self.history.append(num_updates, dict(zip(self.columns, values, strict=True)))

    def save(self, num_updates: int) -> None:
        """Write the checkpoint after `num_updates` updates, unless it exists, and the curves.

        All ranks must call it, since they may have parts of the states.
        """
        kept = self.step.kept() if num_updates > self.saved else None
        if self.history is None:
            self.saved = num_updates
            return
        try:
            self.history.sync()
        finally:
            self._save_checkpoint(num_updates, kept)
        if num_updates != self.drawn:
            plot_history(self.history.path, self.folder.path / CURVES, self.curves)
            self.drawn = num_updates

    def snapshot(self, num_updates: int) -> None:
        """Write the averages of `optimizer.ema_sigma_rels` after `num_updates` updates."""
        kept = self.step.kept()
        if self.history is not None:
            folder = self.folder.path / snapshots.SNAPSHOTS
            snapshots.save(folder, self.network, kept, num_updates, self.folder.identity)

    def _save_checkpoint(self, num_updates: int, kept: States | None) -> None:
        if kept is not None:
            folder, keep = self.folder, self.folder.loop.keep_checkpoints
            parts = (folder.checkpoints, self.network, self.step, num_updates, folder.identity)
            checkpoint.save(*parts, keep, kept)
            self.saved = num_updates


def train(
    network: nn.Cell,
    step: TrainStep,
    terms: tuple[str, ...],
    batches: Batches,
    optimizer: OptimizerConfig,
    folder: RunFolder,
) -> Path:
    """Run updates up to `loop.max_steps`, starting from the newest whole checkpoint of the folder.

    However the run ends, the updates made so far are saved; where states are divided over ranks,
    unless it ends by an error, which other ranks may not have. After SIGTERM or Ctrl-C the program
    finishes the current update and ends.

    Args:
        network: the part of `step`'s objective whose weights are saved.
        terms: names of the objective's scalars.
        batches: called with the number of the first batch; yields the batches from there on. An
            update takes `step.accumulate` of them.
        folder: the folder of the run, entered.
    Returns:
        The last checkpoint.
    Raises:
        WriteError: something cannot be written; the same command goes on once it can.
        DivergedError: loss or gradient stays infinite or NaN; the weights before that are saved.
    """
    loop, ranks, stopped = folder.loop, Ranks(folder.rank), False
    writer = RunWriter(network, step, terms, folder)
    num_updates = start = writer.begin(ranks)
    failed = True
    step.set_train(True)
    with StopRequest(ranks) as stop:
        try:
            for num_updates, values in _updates(step, batches, optimizer, loop, start, ranks):
                if values is not None:
                    writer.log(num_updates, values)
                if optimizer.takes_snapshot(num_updates):
                    writer.snapshot(num_updates)
                if num_updates % loop.save_every == 0:
                    writer.save(num_updates)
                stopped = stop.agreed() and num_updates < loop.max_steps
                if stopped:
                    break
            failed = False
        finally:
            if not failed or step.sharding is None:
                writer.save(num_updates)
        ranks.wait()  # if one rank ended early, msrun would kill the others while they save
    if stopped:
        logger.warning("Stopped after update %d; run the same command to continue.", num_updates)
        stop.end()
    return checkpoint.path_of(folder.checkpoints, num_updates)


def _updates(
    step: TrainStep,
    batches: Batches,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    start: int,
    ranks: Ranks,
) -> Iterator[tuple[int, list[float] | None]]:
    """After each update: the number of updates so far, and the values to log, if any."""
    hidden = None if ranks.rank.is_first else True
    bar = progress(
        total=loop.max_steps, initial=start, desc="training", unit="step", disable=hidden
    )
    begun, logged, failures = time.perf_counter(), start, 0
    stream = batches(start * step.accumulate)
    with bar:
        for number in range(start, loop.max_steps):
            parts = [next(stream) for _ in range(step.accumulate)]
            scalars, norm = step.update_from_batches(step_factors(optimizer, number), parts)
            num_updates, values = number + 1, None
            if num_updates % loop.log_every == 0 or num_updates == loop.max_steps:
                values = ranks.mean(_means(scalars, norm))
                failures = 0 if np.isfinite(values).all() else failures + 1
                _check_patience(failures, num_updates, values)
                bar.set_postfix(loss=f"{values[0]:.4f}", norm=f"{values[-1]:.3f}")
                now = time.perf_counter()
                rate = (num_updates - logged) / (now - begun)
                begun, logged = now, num_updates
                values += [learning_rate(optimizer, number), rate]
            bar.update()
            yield num_updates, values


def _means(scalars: list[tuple[Tensor, ...]], norm: Tensor) -> list[float]:
    """The scalars of an update as means over its batches, then the gradient norm."""
    rows = [[float(scalar.asnumpy()) for scalar in part] for part in scalars]
    return [*(float(value) for value in np.mean(rows, axis=0)), float(norm.asnumpy())]


def _check_patience(failures: int, num_updates: int, values: list[float]) -> None:
    if failures >= _PATIENCE:
        raise DivergedError(
            f"Loss or gradient norm has not been finite in the last {failures} logged updates "
            f"(update {num_updates}: loss {values[0]}, norm {values[-1]}). Lower "
            "`optimizer.learning_rate`, check the data, or use float32."
        )
