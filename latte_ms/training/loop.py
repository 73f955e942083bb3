"""The training loop: update, log, save, and stop without losing updates."""

import logging
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
from latte_ms.training.meter import COLUMNS, Estimate, Meter
from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.optimizer_state import States
from latte_ms.training.recipe import LoopConfig
from latte_ms.training.run_folder import CURVES, EVENTS, HISTORY, RunFolder
from latte_ms.training.step import TrainStep
from latte_ms.training.tensorboard import EventFile
from latte_ms.training.watch import DivergedError, Watch

logger = logging.getLogger(__name__)

Batches = Callable[[int], Iterator[Batch]]
Row = dict[str, float]  # of the history, without the number of the update


class RunWriter:
    """Writes history, curves and checkpoints to the folder of the run; only the first rank does."""

    def __init__(
        self, network: nn.Cell, step: TrainStep, terms: tuple[str, ...], folder: RunFolder
    ) -> None:
        self.network, self.step, self.folder = network, step, folder
        scale = ("loss_scale",) if step.scale_loss else ()
        self.curves = (*terms, "grad_norm", *scale)
        self.columns = (*terms, "grad_norm", "learning_rate", *scale, "skipped", *COLUMNS)
        self.saved = self.plotted = 0  # number of updates in the newest checkpoint, in the curves
        self.history: History | None = None
        self.events: EventFile | None = None

    def begin(self, ranks: Ranks) -> int:
        """Load the run's checkpoint, if any; returns the number of updates before it."""
        self.saved = ranks.of_first(self.folder.start)
        if self.saved:
            path = checkpoint.at(self.folder.checkpoints, self.saved)
            checkpoint.resume(path, self.network, self.step, self.folder.identity)
        if self.folder.rank.is_first:
            self.history = History(self.folder.path / HISTORY, self.columns, self.saved + 1)
            if self.folder.loop.tensorboard:
                self.events = EventFile(self.folder.path / EVENTS, self.saved + 1)
        return self.saved

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint."""
        return checkpoint.path_of(self.folder.checkpoints, self.saved) if self.saved else None

    def log(self, num_updates: int, values: Row) -> None:
        """Write one row of the history, and its scalars for TensorBoard."""
        if self.history is not None:
            self.history.append(num_updates, values)
        if self.events is not None:
            self.events.append(num_updates, values)

    def close(self) -> None:
        """Close the file of events, if any."""
        if self.events is not None:
            self.events.close()

    def save(self, num_updates: int) -> None:
        """Write the checkpoint after `num_updates` updates, unless it exists, and the curves.

        All ranks must call it, since they may have parts of the states.
        """
        kept = self.step.kept() if num_updates > self.saved else None
        try:
            if self.history is not None:
                self.history.sync()
        finally:
            self._save_checkpoint(num_updates, kept)
        self.plot(num_updates)

    def plot(self, num_updates: int) -> None:
        """Draw the curves, unless those of `num_updates` updates are."""
        if self.history is not None and num_updates != self.plotted:
            plot_history(self.history.path, self.folder.path / CURVES, self.curves)
            self.plotted = num_updates

    def snapshot(self, num_updates: int) -> None:
        """Write the averages of `optimizer.ema_sigma_rels` after `num_updates` updates."""
        kept = self.step.kept()
        if self.history is not None:
            folder = self.folder.path / snapshots.SNAPSHOTS
            snapshots.save(folder, self.network, kept, num_updates, self.folder.identity)

    def _save_checkpoint(self, num_updates: int, kept: States | None) -> None:
        if kept is not None:
            folder, keep = self.folder, self.folder.loop.keep_checkpoints
            network, identity = self.network, folder.identity
            if folder.rank.is_first:
                checkpoint.save(
                    folder.checkpoints, network, self.step, num_updates, identity, keep, kept
                )
            self.saved = num_updates


def train(
    network: nn.Cell,
    step: TrainStep,
    terms: tuple[str, ...],
    batches: Batches,
    optimizer: OptimizerConfig,
    folder: RunFolder,
    after_update: Callable[[int], None] | None = None,
) -> Path:
    """Run updates up to `loop.max_steps`, starting from the newest intact checkpoint of the folder.

    However the run ends, the updates made so far are saved, unless one of them failed or, where
    states are divided over ranks, it ends by an error, which other ranks may not have. After
    SIGTERM or Ctrl-C the program finishes the current update and ends.

    Args:
        network: the part of `step`'s objective whose weights are saved.
        terms: names of the objective's scalars.
        batches: called with the number of the first batch; yields the batches from there on. An
            update takes `step.accumulate` of them.
        folder: the folder of the run, entered.
        after_update: called with the number of updates after each one, on all ranks; it must change
            nothing that is trained.
    Returns:
        The last checkpoint.
    Raises:
        WriteError: something cannot be written; the same command goes on once it can.
        DivergedError: the gradient of an update is infinite or NaN, and not by an overflow under
            a dynamic loss scale; nothing is saved after it.
    """
    loop, ranks, stopped = folder.loop, Ranks(folder.rank), False
    writer = RunWriter(network, step, terms, folder)
    num_updates = start = writer.begin(ranks)
    clips = loop.batch_size * step.accumulate * (folder.rank.count // step.ranks_per_clip)
    updates = _Updates(step, terms, optimizer, loop, ranks, Meter(clips, start))
    complete = step.sharding is None
    step.set_train(True)
    with StopRequest(ranks) as stop:
        try:
            for num_updates, values in updates(batches, start):
                updates.check(num_updates, writer.newest)
                if values is not None:
                    writer.log(num_updates, values)
                with updates.meter.timed("checkpoint"):
                    if optimizer.takes_snapshot(num_updates):
                        writer.snapshot(num_updates)
                    if num_updates % loop.save_every == 0:
                        writer.save(num_updates)
                    if after_update is not None:
                        after_update(num_updates)
                stopped = stop.agreed() and num_updates < loop.max_steps
                if stopped:
                    break
            complete = True
        finally:
            _finish(writer, updates.watch, num_updates, complete)
        ranks.wait()  # if one rank ended early, msrun would kill the others while they save
    if stopped:
        logger.warning("Stopped after update %d; run the same command to continue.", num_updates)
        stop.end()
    return checkpoint.path_of(folder.checkpoints, num_updates)


def _finish(writer: RunWriter, watch: Watch, num_updates: int, complete: bool) -> None:
    """Save the updates made so far, if the states of all ranks are there to be saved.

    If one of the updates failed, draw the curves alone.
    """
    try:
        watch.look(writer.newest)
        if complete:
            writer.save(num_updates)
    except DivergedError:
        writer.plot(num_updates)
        raise
    finally:
        writer.close()


class _Updates:
    """The updates of a run, with what is watched, measured and logged of them."""

    def __init__(
        self,
        step: TrainStep,
        terms: tuple[str, ...],
        optimizer: OptimizerConfig,
        loop: LoopConfig,
        ranks: Ranks,
        meter: Meter,
    ) -> None:
        self.step, self.terms, self.optimizer, self.loop = step, terms, optimizer, loop
        self.ranks, self.meter = ranks, meter
        self.watch, self.estimate = Watch(step.scale_loss, ranks.rank), Estimate(loop.max_steps)

    def __call__(self, batches: Batches, start: int) -> Iterator[tuple[int, Row | None]]:
        """After each update from number `start` on: how many there are, and the row to log."""
        hidden = None if self.ranks.rank.is_first else True
        total = self.loop.max_steps
        bar = progress(total=total, initial=start, desc="training", unit="step", disable=hidden)
        count = self.step.accumulate
        stream = batches(start * count)
        with bar:
            for number in range(start, total):
                with self.meter.timed("data"):
                    parts = [next(stream) for _ in range(count)]
                factors = step_factors(self.optimizer, number)
                scalars, norm = self.step.update_from_batches(factors, parts)
                num_updates, row = number + 1, None
                self.watch.add(num_updates, parts, norm)
                self.estimate.add(num_updates)
                if self._is_logged(num_updates):
                    row = self._row(num_updates, scalars, norm)
                    bar.set_postfix(loss=f"{row['loss']:.4f}", norm=f"{row['grad_norm']:.3f}")
                    self._tell(num_updates)
                bar.update()
                yield num_updates, row

    def check(self, num_updates: int, newest: Path | None) -> None:
        """Raise DivergedError if an update failed; looks before anything is logged or saved."""
        saves = num_updates % self.loop.save_every == 0 or self.optimizer.takes_snapshot(
            num_updates
        )
        if saves or self.watch.is_due or self._is_logged(num_updates):
            self.watch.look(newest)

    def _is_logged(self, num_updates: int) -> bool:
        return num_updates % self.loop.log_every == 0 or num_updates == self.loop.max_steps

    def _tell(self, num_updates: int) -> None:
        """Log once how long the run will take."""
        if self.ranks.rank.is_first and num_updates < self.loop.max_steps:
            message = self.estimate.message(num_updates)
            if message:
                logger.info("%s", message)

    def _row(self, num_updates: int, scalars: list[tuple[Tensor, ...]], norm: Tensor) -> Row:
        """The row of the history: means over the batches of the update and the ranks."""
        step = self.step
        parts = [[float(scalar.asnumpy()) for scalar in part] for part in scalars]
        means = [*(float(value) for value in np.mean(parts, axis=0)), float(norm.asnumpy())]
        row = dict(zip((*self.terms, "grad_norm"), self.ranks.mean(means), strict=True))
        row["learning_rate"] = learning_rate(self.optimizer, num_updates - 1)
        if step.scale_loss:
            row["loss_scale"] = float(step.loss_scale.value.asnumpy())
        return {**row, "skipped": step.skipped, **self.meter.row(num_updates)}
