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
from latte_ms.training.history import History, plot_history
from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.recipe import LoopConfig
from latte_ms.training.step import TrainStep

logger = logging.getLogger(__name__)

CHECKPOINTS, HISTORY, CURVES = "checkpoints", "history.csv", "curves.png"
_PATIENCE = 50  # consecutive logged updates without a finite gradient that end the run

Batches = Callable[[int], Iterator[Batch]]


class DivergedError(RuntimeError):
    """The gradient stays infinite or NaN."""


class Record:
    """What the first rank writes into `loop.output`; the other ranks write nothing."""

    def __init__(
        self,
        network: nn.Cell,
        step: TrainStep,
        terms: tuple[str, ...],
        loop: LoopConfig,
        identity: dict[str, Any],
        first: bool,
    ) -> None:
        self.network, self.step, self.loop, self.identity = network, step, loop, identity
        self.first = first
        self.curves = (*terms, "grad_norm")
        self.columns = (*self.curves, "learning_rate", "steps_per_second")
        self.output = Path(loop.output)
        self.folder = self.output / CHECKPOINTS
        self.saved = -1  # number of updates in the newest checkpoint; -1: none
        self.history: History | None = None

    def begin(self) -> int:
        """Load the newest checkpoint, if any; returns the updates made before it."""
        newest = checkpoint.latest(self.folder)
        if newest is not None:
            self.saved = checkpoint.resume(newest, self.network, self.step, self.identity)
        start = max(self.saved, 0)
        if self.first:
            self.output.mkdir(parents=True, exist_ok=True)
            self.history = History(self.output / HISTORY, self.columns, start + 1)
        return start

    def log(self, done: int, values: list[float]) -> None:
        """Write one row of the history."""
        if self.history is not None:
            self.history.append(done, dict(zip(self.columns, values, strict=True)))

    def save(self, done: int) -> None:
        """Write the checkpoint after `done` updates, unless it exists, and the curves."""
        if self.first and done > max(self.saved, 0):
            keep = self.loop.keep_checkpoints
            checkpoint.save(self.folder, self.network, self.step, done, self.identity, keep)
            plot_history(self.output / HISTORY, self.output / CURVES, self.curves)
            self.saved = done


def check_output(loop: LoopConfig, identity: dict[str, Any]) -> None:
    """Raise ValueError if a run cannot save: `loop.output` holds another run or is not writable.

    Creates nothing; to be called before anything that takes long.
    """
    output = Path(loop.output).absolute()
    existing = next(part for part in (output, *output.parents) if part.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"`loop.output` must be a folder that can be written to, got {loop.output}: "
            f"{existing} is none."
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
        batches: from a batch's number, the batches from there on; an update takes
            `step.accumulate` of them.
        identity: what must be the same in a resumed run.
    Returns:
        The last checkpoint.
    Raises:
        ValueError: `loop.output` holds another run.
        DivergedError: the gradient stays infinite or NaN; the weights before that are saved.
    """
    record = Record(network, step, terms, loop, identity, rank.is_first)
    done = start = record.begin()
    step.set_train(True)
    ranks, stopped = Ranks(rank), False
    with StopRequest(ranks) as stop:
        try:
            for done, values in _updates(step, batches, optimizer, loop, start, ranks):
                if values is not None:
                    record.log(done, values)
                if done % loop.save_every == 0:
                    record.save(done)
                stopped = stop.agreed() and done < loop.max_steps
                if stopped:
                    break
        finally:
            record.save(done)
        ranks.wait()  # a rank that ends early would have the others killed while they save
    if stopped:
        logger.warning("Stopped after update %d; run the same command to continue.", done)
        stop.end()
    return checkpoint.path_of(record.folder, done)


def _updates(
    step: TrainStep,
    batches: Batches,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    start: int,
    ranks: Ranks,
) -> Iterator[tuple[int, list[float] | None]]:
    """After each update: the number of updates done, and at logged ones the values to write."""
    hidden = not ranks.rank.is_first
    bar = tqdm(total=loop.max_steps, initial=start, desc="training", unit="step", disable=hidden)
    begun, logged, failures = time.perf_counter(), start, 0
    stream = batches(start * step.accumulate)
    with bar:
        for number in range(start, loop.max_steps):
            parts = [next(stream) for _ in range(step.accumulate)]
            scalars, norm = step.from_batches(step_factors(optimizer, number), parts)
            done, values = number + 1, None
            if done % loop.log_every == 0 or done == loop.max_steps:
                values = ranks.mean(_means(scalars, norm))
                failures = 0 if np.isfinite(values).all() else failures + 1
                _check_patience(failures, done, values)
                bar.set_postfix(loss=f"{values[0]:.4f}", norm=f"{values[-1]:.3f}")
                now = time.perf_counter()
                rate = (done - logged) / (now - begun)
                begun, logged = now, done
                values += [learning_rate(optimizer, number), rate]
            bar.update()
            yield done, values


def _means(scalars: list[tuple[Tensor, ...]], norm: Tensor) -> list[float]:
    """The scalars of an update as means over its batches, then the gradient norm."""
    rows = [[float(scalar.asnumpy()) for scalar in part] for part in scalars]
    return [*(float(value) for value in np.mean(rows, axis=0)), float(norm.asnumpy())]


def _check_patience(failures: int, done: int, values: list[float]) -> None:
    if failures >= _PATIENCE:
        raise DivergedError(
            f"The loss was {values[0]} and the gradient norm {values[-1]} at the end of {failures} "
            f"logged updates in a row that were not finite, up to update {done}. Lower "
            "`optimizer.learning_rate`, check the data, or use float32."
        )
