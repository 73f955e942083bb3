"""The order in which the items of a dataset are visited, and each rank's part of it.

Epoch e visits the items in a permutation drawn from (seed, e). The global batch, over all ranks,
does not depend on the number of ranks, and a batch does not depend on where a run was resumed.
"""

import numpy as np

_ORDER = 1  # first number of the seed: other random streams of a run begin with other numbers


class Order:
    """Which items the batches of one rank hold, epoch after epoch.

    Samples are numbered through the whole run, over updates, ranks and places in a batch.

    Args:
        length: number of items.
        batch_size: of one rank.
        shuffle: False visits the items in their own order.
    Raises:
        ValueError: a number is out of range, or there are fewer items than a global batch has.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        rank_count: int = 1,
        shuffle: bool = True,
    ) -> None:
        if not 0 <= rank < rank_count:
            raise ValueError(f"`rank` (={rank}) must be in 0..`rank_count`-1 (={rank_count - 1}).")
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.rank, self.rank_count = rank, rank_count
        self._latest = (-1, np.zeros(0, np.int64))  # an epoch and its permutation
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"`batch_size` (={batch_size}) times {rank_count} ranks must not exceed the "
                f"number of videos (={length})."
            )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.rank_count

    @property
    def batches_per_epoch(self) -> int:
        """Number of complete batches; the remaining items (shuffled each epoch) are left out."""
        return self.length // self.global_batch_size

    def indices(self, batch_number: int) -> tuple[int, np.ndarray]:
        """The epoch of a global batch, and the items of this rank's part of it."""
        epoch, batch_in_epoch = divmod(batch_number, self.batches_per_epoch)
        start = batch_in_epoch * self.global_batch_size
        global_batch = self._permutation(epoch)[start : start + self.global_batch_size]
        first = self.rank * self.batch_size
        return epoch, global_batch[first : first + self.batch_size]

    def first_sample(self, batch_number: int) -> int:
        """Number of the first sample of this rank's part of a global batch."""
        return batch_number * self.global_batch_size + self.rank * self.batch_size

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.length)
        if self._latest[0] != epoch:
            rng = np.random.default_rng([_ORDER, self.seed, epoch])
            self._latest = (epoch, rng.permutation(self.length))
        return self._latest[1]
