"""Ranks that divide each clip among them."""

import pytest

from latte_ms.parallel.group import Group
from latte_ms.runtime import Rank


def test_consecutive_ranks_make_a_group() -> None:
    groups = [Group(Rank(index, 6), 2) for index in range(6)]
    assert [(g.group_index, g.rank_in_group) for g in groups] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert {g.num_groups for g in groups} == {3}
    assert [g.members for g in groups[2:4]] == [[2, 3], [2, 3]]
    assert [list(range(8))[g.part(8)] for g in groups[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert Group(Rank()).part(5) == slice(0, 5)


@pytest.mark.parametrize(("ranks", "size"), [(6, 4), (1, 2), (2, 0)])
def test_groups_are_whole(ranks: int, size: int) -> None:
    message = rf"`sequence_parallel` \(={size}\) must divide the number of ranks \(={ranks}\)"
    with pytest.raises(ValueError, match=message):
        Group(Rank(0, ranks), size)
