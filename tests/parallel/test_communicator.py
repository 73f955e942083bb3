"""Sums over ranks where there is one; `end_to_end/test_distributed.py` has several."""

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import Rank


class OneOfTwo(Communicator):
    """A rank of two in one process: `given` collects what both have given so far."""

    def __init__(self, index: int, given: list[np.ndarray]) -> None:
        super().__init__(Rank())
        self.rank, self._given = Rank(index, 2), given
        self._sum = self._total

    def _total(self, own: Tensor) -> Tensor:
        self._given.append(own.asnumpy())
        return Tensor(np.sum(self._given, 0))


@pytest.mark.parametrize("number", [0, 2**24 - 1, 2**24 + 1, 2**31 + 12345, 2**48 - 1])
def test_a_number_that_float32_lacks_is_broadcast(number: int) -> None:
    """The parts of a number are each exact in float32; another rank's own number does not count."""
    given: list[np.ndarray] = []
    assert OneOfTwo(0, given).broadcast_from_first(number) == number
    assert OneOfTwo(1, given).broadcast_from_first(7) == number
    assert Communicator(Rank()).broadcast_from_first(number) == number


def test_one_rank_agrees_with_itself() -> None:
    communicator = Communicator(Rank())
    assert communicator.sum([1.5, -2.0]).asnumpy().tolist() == [1.5, -2.0]
    assert communicator.mean([0.1, 3.0]) == [0.1, 3.0]
    communicator.wait()
