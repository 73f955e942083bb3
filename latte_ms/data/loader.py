"""Batches of a dataset in a seeded order, prefetched by threads, resumable at any batch.

Epoch e visits the items in a permutation drawn from (seed, e); item i draws its random choices
from (seed, e, i). A batch depends neither on the number of workers nor on where a run was resumed,
and the global batch, over all ranks, does not depend on the number of ranks.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np

from latte_ms.data.datasets import Item, VideoDataset

# First number of every seed: the order and the items have random streams of their own.
_ORDER, _ITEM = 1, 2


@dataclass(frozen=True)
class LoaderConfig:
    """How to form batches. Raises ValueError for a bad value."""

    batch_size: int = 1  # per rank
    seed: int = 0
    shuffle: bool = True
    num_workers: int = 2  # threads
    prefetch: int = 2  # batches prepared ahead

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("seed", 0), ("num_workers", 1), ("prefetch", 1)):
            value = getattr(self, name)
            if value < minimum:
                raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


class Loader:
    """Batches of `dataset` for one rank: dictionaries of arrays stacked along a new first axis."""

    def __init__(
        self,
        dataset: VideoDataset,
        config: LoaderConfig,
        rank: int = 0,
        rank_count: int = 1,
    ):
        if not 0 <= rank < rank_count:
            raise ValueError(f"`rank` (={rank}) must be in 0..`rank_count`-1 (={rank_count - 1}).")
        self.dataset = dataset
        self.config = config
        self.rank = rank
        self.rank_count = rank_count
        self._latest_order = (-1, np.zeros(0, np.int64))
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"`batch_size` (={config.batch_size}) on {rank_count} ranks must not exceed the "
                f"number of videos (={len(dataset)})."
            )

    @property
    def global_batch_size(self) -> int:
        return self.config.batch_size * self.rank_count

    @property
    def batches_per_epoch(self) -> int:
        """Number of complete batches; the remaining videos (shuffled each epoch) are left out."""
        return len(self.dataset) // self.global_batch_size

    def endless(self, start_batch: int = 0) -> Iterator[Item]:
        """Batches from number `start_batch` on, epoch after epoch, endlessly."""
        return self._prepare(count(start_batch))

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Item]:
        """The batches of one epoch, from its batch `start_batch` on."""
        first = epoch * self.batches_per_epoch
        return self._prepare(range(first + start_batch, first + self.batches_per_epoch))

    def indices(self, batch_number: int) -> tuple[int, np.ndarray]:
        """The epoch of a global batch, and the items of this rank's part of it."""
        epoch, batch_in_epoch = divmod(batch_number, self.batches_per_epoch)
        start = batch_in_epoch * self.global_batch_size
        global_batch = self._order(epoch)[start : start + self.global_batch_size]
        first = self.rank * self.config.batch_size
        return epoch, global_batch[first : first + self.config.batch_size]

    def _order(self, epoch: int) -> np.ndarray:
        if not self.config.shuffle:
            return np.arange(len(self.dataset))
        if self._latest_order[0] != epoch:
            rng = np.random.default_rng([_ORDER, self.config.seed, epoch])
            self._latest_order = (epoch, rng.permutation(len(self.dataset)))
        return self._latest_order[1]

    def _item(self, epoch: int, index: int) -> Item:
        rng = np.random.default_rng([_ITEM, self.config.seed, epoch, index])
        return self.dataset.item(index, rng)

    def _prepare(self, batch_numbers: Iterable[int]) -> Iterator[Item]:
        """Batches in order, while up to `prefetch` further ones are being prepared."""
        pool = ThreadPoolExecutor(self.config.num_workers, thread_name_prefix="loader")
        pending: deque[list[Future[Item]]] = deque()
        try:
            for batch_number in batch_numbers:
                epoch, indices = self.indices(batch_number)
                pending.append([pool.submit(self._item, epoch, int(i)) for i in indices])
                if len(pending) > self.config.prefetch:
                    yield collate([future.result() for future in pending.popleft()])
            while pending:
                yield collate([future.result() for future in pending.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def collate(items: list[Item]) -> Item:
    """Stack each entry of the items along a new first axis."""
    return {key: np.stack([item[key] for item in items]) for key in items[0]}
