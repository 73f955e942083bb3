"""How long training waits for its data: `benchmark_data.py --config FILE [key=value ...]`.

Reads the batches of a training recipe (videos, or the latent cache that it names) as `train.py`
does, and sleeps instead of training: so does a host whose accelerator computes. The share of the
time that is spent waiting is what slower data would add to a run. Reading ahead begins before the
first step; the first `warmup` steps are not counted.

    python tools/benchmark_data.py --config configs/ucf101/train.yaml data.path=videos
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from latte_ms.cache.reading import CachedClips
from latte_ms.config import exit_on_error, parse
from latte_ms.data.datasets import VideoDataset
from latte_ms.data.loader import Dataset, Loader, LoaderConfig
from latte_ms.progress import progress
from latte_ms.terminal import say
from latte_ms.training.recipe import TrainConfig


@dataclass(frozen=True)
class Waiting:
    """Seconds of a number of steps."""

    steps: int
    waiting: float
    total: float

    @property
    def share(self) -> float:
        """Of the time, in 0..1, that was spent waiting for batches."""
        return self.waiting / self.total


def main(arguments: list[str] | None = None) -> None:
    options, rest = _parser().parse_known_args(arguments)
    cfg = parse(TrainConfig, rest, __doc__)
    with exit_on_error():
        if options.steps < 1 or options.warmup < 0 or options.step_seconds < 0:
            raise ValueError(
                f"`--steps` (={options.steps}) must be at least 1, `--warmup` "
                f"(={options.warmup}) and `--step-seconds` (={options.step_seconds}) at least 0."
            )
        loader = build_loader(cfg)
        steps = (options.steps, options.warmup, options.step_seconds)
        found = measure(loader.endless(), *steps)
        rate = cfg.loop.batch_size * found.steps / found.total
        say(
            f"{len(loader.dataset)} videos, batches of {cfg.loop.batch_size}, "
            f"{cfg.loop.num_workers} workers, {options.step_seconds:g} s a step: "
            f"{found.share:.1%} of {found.total:.1f} s waiting, {rate:.1f} clips/s"
        )


def build_loader(cfg: TrainConfig) -> Loader:
    """The loader of a recipe on one rank. Raises ValueError where there is nothing to read."""
    dataset: Dataset
    if cfg.latent_cache.path:
        dataset = CachedClips(cfg.data, cfg.latent_cache)
    else:
        dataset = VideoDataset(cfg.data)
    loop = cfg.loop
    return Loader(dataset, LoaderConfig(loop.batch_size, loop.seed, num_workers=loop.num_workers))


def measure(batches: Iterator[Any], steps: int, warmup: int, step_seconds: float) -> Waiting:
    """Take `warmup` batches, then `steps` timed ones, sleeping `step_seconds` after each."""
    for _ in itertools.islice(batches, warmup):
        time.sleep(step_seconds)
    waiting, start = 0.0, time.perf_counter()
    for _ in progress(range(steps), desc="reading", unit="step"):
        before = time.perf_counter()
        next(batches)
        waiting += time.perf_counter() - before
        time.sleep(step_seconds)
    return Waiting(steps, waiting, time.perf_counter() - start)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--step-seconds", type=float, default=0.5)
    return parser


if __name__ == "__main__":
    main()
