"""Sums over ranks where there is one; `end_to_end/test_distributed.py` has several."""

from latte_ms.parallel.ranks import Ranks
from latte_ms.runtime import Rank


def test_one_rank_agrees_with_itself() -> None:
    ranks = Ranks(Rank())
    assert ranks.sum([1.5, -2.0]).asnumpy().tolist() == [1.5, -2.0]
    assert ranks.mean([0.1, 3.0]) == [0.1, 3.0]
    ranks.wait()
