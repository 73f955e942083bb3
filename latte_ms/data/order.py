"""The order in which the items of a dataset are visited, and each replica's part of it.

Epoch e visits the items in a permutation drawn from (seed, e). The global batch, over all
data-parallel replicas, does not depend on their number, and a batch does not depend on where a run
was resumed.
"""

import numpy as np

_ORDER_STREAM = (
    1  # first number of the seed: other random streams of a run begin with other numbers
)


class Order:
    """Which items the batches of one replica hold, epoch after epoch.

    Samples are numbered through the whole run, over updates, replicas and places in a batch.
    A data-parallel replica is one rank, or a group of ranks that divide each clip.

    Args:
        length: number of items.
        batch_size: of one replica.
        shuffle: False visits the items in their own order.
    Raises:
        ValueError: a number is out of range, or there are fewer items than a global batch has.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        replica: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
    ) -> None:
        if not 0 <= replica < num_replicas:
            raise ValueError(
                f"`replica` (={replica}) must be in 0..`num_replicas`-1 (={num_replicas - 1})."
            )
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.replica, self.num_replicas = replica, num_replicas
        self._latest = (-1, np.zeros(0, np.int64))  # an epoch and its permutation
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"`batch_size` (={batch_size}) times {num_replicas} replicas must not exceed the "
                f"number of videos (={length})."
            )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.num_replicas

    @property
    def batches_per_epoch(self) -> int:
        """Number of complete batches; the remaining items (shuffled each epoch) are left out."""
        return self.length // self.global_batch_size

    def indices(self, batch_number: int) -> tuple[int, np.ndarray]:
        """The epoch of a global batch, and the items of this replica's part of it."""
        epoch, batch_in_epoch = divmod(batch_number, self.batches_per_epoch)
        start = batch_in_epoch * self.global_batch_size
        global_batch = self._permutation(epoch)[start : start + self.global_batch_size]
        first = self.replica * self.batch_size
        return epoch, global_batch[first : first + self.batch_size]

    def first_sample(self, batch_number: int) -> int:
        """Number of the first sample of this replica's part of a global batch."""
        return batch_number * self.global_batch_size + self.replica * self.batch_size

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.length)
        if self._latest[0] != epoch:
            rng = np.random.default_rng([_ORDER_STREAM, self.seed, epoch])
            self._latest = (epoch, rng.permutation(self.length))
        return self._latest[1]
