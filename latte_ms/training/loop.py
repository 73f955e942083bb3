"""The training loop: update, log, save, and survive being stopped."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn
from tqdm import tqdm

from latte_ms.runtime import Rank
from latte_ms.training import checkpoint
from latte_ms.training.history import History, plot_history
from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.recipe import LoopConfig
from latte_ms.training.step import TrainStep

CHECKPOINTS, HISTORY, CURVES = "checkpoints", "history.csv", "curves.png"
_PATIENCE = 50  # logged updates in a row without a finite loss before the run gives up


def train(
    network: nn.Cell,
    step: TrainStep,
    terms: tuple[str, ...],
    batches: Callable[[int], Iterator[tuple[Any, ...]]],
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    identity: dict[str, Any],
    rank: Rank,
) -> Path:
    """Run updates up to `loop.max_steps`, starting from the newest checkpoint in `loop.output`.

    Args:
        network: whose weights are saved, a part of `step`'s objective.
        terms: names of the objective's scalars.
        batches: from an update's number, the batches from there on.
        identity: what a resumed run must agree on.
    Returns:
        The last checkpoint.
    Raises:
        ValueError: `loop.output` holds another run.
        RuntimeError: the loss stays infinite or NaN; the last good checkpoint is kept.
    """
    output = Path(loop.output)
    folder = output / CHECKPOINTS
    newest = checkpoint.latest(folder)
    start = checkpoint.resume(newest, network, step, identity) if newest else 0
    columns = (*terms, "grad_norm", "learning_rate", "steps_per_second")
    history = None
    if rank.is_first:
        output.mkdir(parents=True, exist_ok=True)
        history = History(output / HISTORY, columns, start + 1)
    step.set_train(True)
    done = start
    try:
        for done, scalars in _updates(step, batches, optimizer, loop, start, rank):
            if scalars is not None and history is not None:
                named = dict(zip(columns, scalars, strict=True))
                history.append(done, named)
            if done % loop.save_every == 0 and done < loop.max_steps and rank.is_first:
                checkpoint.save(folder, network, step, done, identity, loop.keep_checkpoints)
    finally:
        # Also after an interrupt: whatever was learned is kept.
        if rank.is_first and done > start:
            newest = checkpoint.save(folder, network, step, done, identity, loop.keep_checkpoints)
            plot_history(output / HISTORY, output / CURVES, (*terms, "grad_norm"))
    assert newest is not None
    return newest


def _updates(
    step: TrainStep,
    batches: Callable[[int], Iterator[tuple[Any, ...]]],
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    start: int,
    rank: Rank,
) -> Iterator[tuple[int, list[float] | None]]:
    """After each update: how many are done, and at logged ones the values to write."""
    bar = tqdm(
        total=loop.max_steps, initial=start, desc="training", unit="step", disable=not rank.is_first
    )
    begun, logged, failures = time.perf_counter(), start, 0
    with bar:
        for number, batch in zip(range(start, loop.max_steps), batches(start), strict=False):
            tensors = [None if part is None else Tensor(np.ascontiguousarray(part)) for part in batch]
            scalars = step(*step_factors(optimizer, number), *tensors)
            done, values = number + 1, None
            if done % loop.log_every == 0 or done == loop.max_steps:
                values = [float(scalar.asnumpy()) for scalar in scalars]
                failures = 0 if np.isfinite(values[0]) else failures + 1
                if failures >= _PATIENCE:
                    raise RuntimeError(
                        f"The loss was {values[0]} at {failures} logged updates in a row, up to "
                        f"update {done}. Lower `optimizer.learning_rate`, or use float32."
                    )
                bar.set_postfix(loss=f"{values[0]:.4f}", norm=f"{values[-1]:.3f}")
                now = time.perf_counter()
                rate = (done - logged) / (now - begun)
                begun, logged = now, done
                values += [learning_rate(optimizer, number), rate]
            bar.update()
            yield done, values
