"""Numbers that all ranks of a run agree on."""

import numpy as np
from mindspore import Tensor, nn, ops

from latte_ms.runtime import Rank


class AllReduceSum(nn.Cell):
    """The sum over the ranks of an array of any shape."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.reduce = ops.AllReduce()

    def construct(self, values: Tensor) -> Tensor:
        return self.reduce(values)


class Communicator:
    """Sums over all ranks; with one rank nothing is sent.

    Every rank must make the same calls in the same order.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self._sum = AllReduceSum() if rank.count > 1 else None

    def sum(self, values: list[float]) -> Tensor:
        """The sum of each value over the ranks, as a float32 tensor that may not be ready yet."""
        own = Tensor(np.array(values, np.float32))
        return own if self._sum is None else self._sum(own)

    def mean(self, values: list[float]) -> list[float]:
        """The mean of each value over the ranks."""
        if self._sum is None:
            return values
        return [float(total) / self.rank.count for total in self.sum(values).asnumpy()]

    def broadcast_from_first(self, number: int) -> int:
        """The number that the first rank gives: a whole number from 0 to 2^48 - 1."""
        if self._sum is None:
            return number
        parts = divmod(number, 1 << 24) if self.rank.is_first else (0, 0)  # exact in float32
        high, low = self.sum([float(part) for part in parts]).asnumpy()
        return int(high) << 24 | int(low)

    def wait(self) -> None:
        """Return when all ranks have called this."""
        self.sum([0.0]).asnumpy()
