"""The training loop: update, log, save, and stop without losing updates."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.stop import StopRequest
from latte_ms.progress import progress
from latte_ms.training import checkpoint, snapshots
from latte_ms.training.batch import Batch
from latte_ms.training.history import History, plot_history
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.meter import COLUMNS, Estimate, Meter
from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.optimizer_state import States
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
        self, network: nn.Cell, step: TrainStep, term_names: tuple[str, ...], folder: RunFolder
    ) -> None:
        self.network, self.step, self.folder = network, step, folder
        scale = ("loss_scale",) if step.scale_loss else ()
        self.curves = (*term_names, "grad_norm", *scale)
        self.columns = (*term_names, "grad_norm", "learning_rate", *scale, "skipped", *COLUMNS)
        self.saved_updates = 0  # in the newest checkpoint
        self.plotted_updates = 0  # in the curves
        self.history: History | None = None
        self.events: EventFile | None = None

    def begin(self, communicator: Communicator) -> int:
        """Load the run's checkpoint, if any; returns the number of updates in it.

        Rows of the history and snapshots of later updates are dropped.
        """
        self.saved_updates = communicator.broadcast_from_first(self.folder.start)
        if self.saved_updates:
            path = checkpoint.at(self.folder.checkpoints, self.saved_updates)
            checkpoint.resume(path, self.network, self.step, self.folder.identity)
        if self.folder.rank.is_first:
            snapshots.remove_after(self.folder.path / snapshots.SNAPSHOTS, self.saved_updates)
            self.history = History(self.folder.path / HISTORY, self.columns, self.saved_updates + 1)
            if self.folder.loop.tensorboard:
                self.events = EventFile(self.folder.path / EVENTS, self.saved_updates + 1)
        return self.saved_updates

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint."""
        if not self.saved_updates:
            return None
        return checkpoint.path_of(self.folder.checkpoints, self.saved_updates)

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
        states = self.step.gathered_states() if num_updates > self.saved_updates else None
        try:
            if self.history is not None:
                self.history.sync()
        finally:
            self._save_checkpoint(num_updates, states)
        self.plot(num_updates)

    def plot(self, num_updates: int) -> None:
        """Draw the curves, unless those of `num_updates` updates are."""
        if self.history is not None and num_updates != self.plotted_updates:
            plot_history(self.history.path, self.folder.path / CURVES, self.curves)
            self.plotted_updates = num_updates

    def snapshot(self, num_updates: int) -> None:
        """Write the averages of `optimizer.ema_sigma_rels` after `num_updates` updates."""
        states = self.step.gathered_states()
        if self.history is not None:
            folder = self.folder.path / snapshots.SNAPSHOTS
            snapshots.save(folder, self.network, states, num_updates, self.folder.identity)

    def _save_checkpoint(self, num_updates: int, states: States | None) -> None:
        if states is not None:
            folder, keep = self.folder, self.folder.loop.keep_checkpoints
            network, identity = self.network, folder.identity
            if folder.rank.is_first:
                checkpoint.save(
                    folder.checkpoints, network, self.step, num_updates, identity, keep, states
                )
            self.saved_updates = num_updates


def train(
    network: nn.Cell,
    step: TrainStep,
    term_names: tuple[str, ...],
    batches: Batches,
    optimizer: OptimizerConfig,
    folder: RunFolder,
    after_update: Callable[[int], None] | None = None,
) -> Path:
    """Run updates up to `loop.max_steps`, starting from the newest intact checkpoint of the folder.

    However the run ends, the updates made so far are saved, with two exceptions: one of them
    failed; or states are divided over ranks and the run ends by an error, so that other ranks may
    not be there to send their parts. After SIGTERM or Ctrl-C the program finishes the current
    update and ends.

    Args:
        network: the part of `step`'s objective whose weights are saved.
        term_names: of the objective's scalars.
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
    loop, communicator, stopped = folder.loop, Communicator(folder.rank), False
    writer = RunWriter(network, step, term_names, folder)
    num_updates = start = writer.begin(communicator)
    clips = loop.batch_size * step.accumulate * (folder.rank.count // step.ranks_per_clip)
    updates = _Updates(step, term_names, optimizer, loop, communicator, Meter(clips, start))
    can_save = step.sharding is None
    step.set_train(True)
    with StopRequest(communicator) as stop:
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
            can_save = True
        finally:
            _finish(writer, updates.watch, num_updates, can_save)
        communicator.wait()  # if one rank ended early, msrun would kill the others while they save
    if stopped:
        logger.warning("Stopped after update %d; run the same command to continue.", num_updates)
        stop.end()
    return checkpoint.path_of(folder.checkpoints, num_updates)


def _finish(writer: RunWriter, watch: Watch, num_updates: int, can_save: bool) -> None:
    """Save the updates made so far, if the states of all ranks are there to be saved.

    If one of the updates failed, draw the curves alone.
    """
    try:
        watch.raise_if_failed(writer.newest)
        if can_save:
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
        term_names: tuple[str, ...],
        optimizer: OptimizerConfig,
        loop: LoopConfig,
        communicator: Communicator,
        meter: Meter,
    ) -> None:
        self.step, self.term_names, self.optimizer, self.loop = step, term_names, optimizer, loop
        self.communicator, self.meter = communicator, meter
        self.watch = Watch(step.scale_loss, communicator.rank)
        self.estimate = Estimate(loop.max_steps)

    def __call__(self, batches: Batches, start: int) -> Iterator[tuple[int, Row | None]]:
        """After each update from number `start` on: how many there are, and the row to log."""
        hide_progress = None if self.communicator.rank.is_first else True
        total = self.loop.max_steps
        bar = progress(
            total=total, initial=start, desc="training", unit="step", disable=hide_progress
        )
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
            self.watch.raise_if_failed(newest)

    def _is_logged(self, num_updates: int) -> bool:
        return num_updates % self.loop.log_every == 0 or num_updates == self.loop.max_steps

    def _tell(self, num_updates: int) -> None:
        """Log once how long the run will take."""
        if self.communicator.rank.is_first and num_updates < self.loop.max_steps:
            message = self.estimate.message(num_updates)
            if message:
                logger.info("%s", message)

    def _row(self, num_updates: int, scalars: list[tuple[Tensor, ...]], norm: Tensor) -> Row:
        """The row of the history: means over the batches of the update and the ranks."""
        step = self.step
        parts = [[float(scalar.asnumpy()) for scalar in part] for part in scalars]
        means = [*(float(value) for value in np.mean(parts, axis=0)), float(norm.asnumpy())]
        row = dict(zip((*self.term_names, "grad_norm"), self.communicator.mean(means), strict=True))
        row["learning_rate"] = learning_rate(self.optimizer, num_updates - 1)
        if step.scale_loss:
            row["loss_scale"] = float(step.loss_scale.value.asnumpy())
        return {**row, "skipped": step.skipped, **self.meter.row(num_updates)}
