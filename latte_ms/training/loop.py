"""The training loop: update, log, save, and stop without losing updates."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn
from tqdm import tqdm

from latte_ms.parallel.ranks import Ranks
from latte_ms.parallel.stop import StopRequest
from latte_ms.runtime import Rank
from latte_ms.training import checkpoint
from latte_ms.training.batch import Batch
from latte_ms.training.history import History, figure_class, plot_history
from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.recipe import LoopConfig
from latte_ms.training.step import TrainStep

logger = logging.getLogger(__name__)

CHECKPOINTS, HISTORY, CURVES = "checkpoints", "history.csv", "curves.png"
_PATIENCE = 50  # consecutive logged updates with a non-finite value after which a run ends

Batches = Callable[[int], Iterator[Batch]]


class DivergedError(RuntimeError):
    """Loss or gradient stays infinite or NaN."""


class RunWriter:
    """Writes history, curves and checkpoints to `loop.output`; only the first rank does."""

    def __init__(
        self,
        network: nn.Cell,
        step: TrainStep,
        terms: tuple[str, ...],
        loop: LoopConfig,
        identity: dict[str, Any],
        is_first_rank: bool,
    ) -> None:
        self.network, self.step, self.loop, self.identity = network, step, loop, identity
        self.is_first_rank = is_first_rank
        self.curves = (*terms, "grad_norm")
        self.columns = (*self.curves, "learning_rate", "steps_per_second")
        self.output = Path(loop.output)
        self.folder = self.output / CHECKPOINTS
        self.saved = -1  # number of updates in the newest checkpoint; -1: none
        self.history: History | None = None

    def begin(self) -> int:
        """Load the newest checkpoint, if any; returns the number of updates before it."""
        newest = checkpoint.latest(self.folder)
        if newest is not None:
            self.saved = checkpoint.resume(newest, self.network, self.step, self.identity)
        start = max(self.saved, 0)
        if self.is_first_rank:
            self.output.mkdir(parents=True, exist_ok=True)
            self.history = History(self.output / HISTORY, self.columns, start + 1)
        return start

    def log(self, num_updates: int, values: list[float]) -> None:
        """Write one row of the history."""
        if self.history is not None:
            self.history.append(num_updates, dict(zip(self.columns, values, strict=True)))

    def save(self, num_updates: int) -> None:
        """Write the checkpoint after `num_updates` updates, unless it exists, and the curves."""
        if self.is_first_rank and num_updates > max(self.saved, 0):
            keep = self.loop.keep_checkpoints
            checkpoint.save(self.folder, self.network, self.step, num_updates, self.identity, keep)
            plot_history(self.output / HISTORY, self.output / CURVES, self.curves)
            self.saved = num_updates


def check_output(loop: LoopConfig, identity: dict[str, Any]) -> None:
    """Raise ValueError if a run cannot save: `loop.output` holds another run or is not writable.

    Also raises MissingExtraError where the curves cannot be plotted. Creates nothing. Call it
    before anything that takes long.
    """
    figure_class()
    output = Path(loop.output).absolute()
    existing = next(part for part in (output, *output.parents) if part.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"`loop.output` must be a folder that can be written to, got {loop.output}: "
            f"{existing} is not a writable folder."
        )
    newest = checkpoint.latest(Path(loop.output) / CHECKPOINTS)
    if newest is not None:
        checkpoint.check_identity(newest, identity)


def train(
    network: nn.Cell,
    step: TrainStep,
    terms: tuple[str, ...],
    batches: Batches,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    identity: dict[str, Any],
    rank: Rank,
) -> Path:
    """Run updates up to `loop.max_steps`, starting from the newest checkpoint in `loop.output`.

    However the run ends, the updates made so far are saved. After SIGTERM or Ctrl-C the program
    finishes the current update and ends.

    Args:
        network: the part of `step`'s objective whose weights are saved.
        terms: names of the objective's scalars.
        batches: called with the number of the first batch; yields the batches from there on. An
            update takes `step.accumulate` of them.
        identity: the configuration that a resumed run must match.
    Returns:
        The last checkpoint.
    Raises:
        ValueError: `loop.output` holds another run.
        DivergedError: loss or gradient stays infinite or NaN; the weights before that are saved.
    """
    writer = RunWriter(network, step, terms, loop, identity, rank.is_first)
    num_updates = start = writer.begin()
    step.set_train(True)
    ranks, stopped = Ranks(rank), False
    with StopRequest(ranks) as stop:
        try:
            for num_updates, values in _updates(step, batches, optimizer, loop, start, ranks):
                if values is not None:
                    writer.log(num_updates, values)
                if num_updates % loop.save_every == 0:
                    writer.save(num_updates)
                stopped = stop.agreed() and num_updates < loop.max_steps
                if stopped:
                    break
        finally:
            writer.save(num_updates)
        ranks.wait()  # if one rank ended early, msrun would kill the others while they save
    if stopped:
        logger.warning("Stopped after update %d; run the same command to continue.", num_updates)
        stop.end()
    return checkpoint.path_of(writer.folder, num_updates)


def _updates(
    step: TrainStep,
    batches: Batches,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    start: int,
    ranks: Ranks,
) -> Iterator[tuple[int, list[float] | None]]:
    """After each update: the number of updates so far, and the values to log, if any."""
    hidden = not ranks.rank.is_first
    bar = tqdm(total=loop.max_steps, initial=start, desc="training", unit="step", disable=hidden)
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
