"""Ranks that work on the same clips."""

from dataclasses import dataclass

from latte_ms.runtime import Rank


@dataclass(frozen=True)
class Group:
    """The `size` consecutive ranks that divide each clip among them, and `rank`, one of them.

    Raises ValueError unless the ranks of the run make whole groups.
    """

    rank: Rank
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.rank.count % self.size:
            raise ValueError(
                f"`sequence_parallel` (={self.size}) must divide the number of ranks "
                f"(={self.rank.count})."
            )

    @property
    def rank_in_group(self) -> int:
        """The number of this rank within its group."""
        return self.rank.index % self.size

    @property
    def group_index(self) -> int:
        """The number of this group."""
        return self.rank.index // self.size

    @property
    def num_groups(self) -> int:
        """The number of groups."""
        return self.rank.count // self.size

    @property
    def members(self) -> list[int]:
        """The ranks of this group."""
        first = self.group_index * self.size
        return list(range(first, first + self.size))

    def part(self, length: int) -> slice:
        """This rank's part of `length` things, which `size` divides."""
        each = length // self.size
        return slice(self.rank_in_group * each, (self.rank_in_group + 1) * each)
