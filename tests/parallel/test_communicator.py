"""Sums over ranks where there is one; `end_to_end/test_distributed.py` has several."""

from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import Rank


def test_one_rank_agrees_with_itself() -> None:
    communicator = Communicator(Rank())
    assert communicator.sum([1.5, -2.0]).asnumpy().tolist() == [1.5, -2.0]
    assert communicator.mean([0.1, 3.0]) == [0.1, 3.0]
    communicator.wait()
