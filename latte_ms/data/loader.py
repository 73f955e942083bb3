"""Batches of a dataset in a seeded order, prefetched by threads, resumable at any batch.

Item i of epoch e draws its random choices from (seed, e, i). A batch depends neither on the number
of workers nor on where a run was resumed.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import numpy as np

from latte_ms.data.datasets import Item
from latte_ms.data.order import Order

_ITEM_STREAM = 2  # first number of every seed; the order's is 1


@dataclass(frozen=True)
class LoaderConfig:
    """How to form batches. Raises ValueError for a bad value."""

    batch_size: int = 1  # of a replica: one rank, or a group that divides each clip
    seed: int = 0
    shuffle: bool = True
    num_workers: int = 2  # threads
    prefetch: int = 2  # batches prepared ahead

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("seed", 0), ("num_workers", 1), ("prefetch", 1)):
            value = getattr(self, name)
            if value < minimum:
                raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


class Dataset(Protocol):
    """Numbered items, such as a `VideoDataset`; safe between threads."""

    @property
    def names(self) -> list[str]:
        """Of all videos; the `index` of an item is a position in this list."""

    def __len__(self) -> int: ...

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """Item `index`; every random choice comes from `rng` alone."""


class Loader:
    """Batches of `dataset` for one replica: dictionaries of arrays (B, ...)."""

    def __init__(
        self,
        dataset: Dataset,
        config: LoaderConfig,
        replica: int = 0,
        num_replicas: int = 1,
    ):
        self.dataset = dataset
        self.config = config
        self.order = Order(
            len(dataset), config.batch_size, config.seed, replica, num_replicas, config.shuffle
        )

    def endless(self, start_batch: int = 0) -> Iterator[Item]:
        """Batches from number `start_batch` on, epoch after epoch, endlessly."""
        return self._prepare(count(start_batch))

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Item]:
        """The batches of one epoch, from its batch `start_batch` on."""
        first = epoch * self.order.batches_per_epoch
        return self._prepare(range(first + start_batch, first + self.order.batches_per_epoch))

    def _item(self, epoch: int, index: int) -> Item:
        rng = np.random.default_rng([_ITEM_STREAM, self.config.seed, epoch, index])
        return self.dataset.item(index, rng)

    def _prepare(self, batch_numbers: Iterable[int]) -> Iterator[Item]:
        """Batches in order, while up to `prefetch` further ones are being prepared.

        Each has a thread that hands out its items and stacks them. The caller takes a batch that is
        ready before it asks for another one: it would wait for the interpreter, which the workers
        then share with it.
        """
        workers = ThreadPoolExecutor(self.config.num_workers, thread_name_prefix="loader")
        batches = ThreadPoolExecutor(self.config.prefetch, thread_name_prefix="loader-batch")
        numbers = iter(batch_numbers)
        pending: deque[Future[Item]] = deque()
        try:
            for number in islice(numbers, self.config.prefetch):
                pending.append(batches.submit(self._batch, workers, number))
            while pending:
                batch = pending.popleft().result()
                for number in islice(numbers, 1):
                    pending.append(batches.submit(self._batch, workers, number))
                yield batch
        finally:
            for executor in (batches, workers):
                executor.shutdown(wait=False, cancel_futures=True)

    def _batch(self, workers: ThreadPoolExecutor, batch_number: int) -> Item:
        epoch, indices = self.order.indices(batch_number)
        items = [workers.submit(self._item, epoch, int(i)) for i in indices]
        return collate([item.result() for item in items])


def collate(items: list[Item]) -> Item:
    """Stack each entry of the items along a new first axis."""
    return {key: np.stack([item[key] for item in items]) for key in items[0]}
