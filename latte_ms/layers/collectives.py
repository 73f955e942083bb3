"""Exchange of arrays between the ranks of a run, inside a graph."""

from mindspore import Tensor, communication, nn, ops

from latte_ms.layers import kernels
from latte_ms.parallel.communicator import AllReduceSum
from latte_ms.parallel.group import Group
from latte_ms.runtime import Rank


class ReduceScatterMean(nn.Cell):
    """This rank's part (n / ranks,) of the mean over the ranks of an array (n,); not on a CPU."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.factor = 1.0 / rank.count
        self.scatter = ops.ReduceScatter()

    def construct(self, x: Tensor) -> Tensor:
        return self.scatter(x) * self.factor


class AllReduceMean(nn.Cell):
    """The mean over the ranks of an array of any shape."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.factor = 1.0 / rank.count
        self.sum = AllReduceSum()

    def construct(self, x: Tensor) -> Tensor:
        return self.sum(x) * self.factor


class FlatAllReduceMean(nn.Cell):
    """The means over the ranks of several arrays, exchanged and returned as one of one axis."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.mean = AllReduceMean(rank)

    def construct(self, arrays: tuple[Tensor, ...]) -> Tensor:
        return self.mean(kernels.concat(tuple([array.reshape(-1) for array in arrays]), 0))


class AllGatherFlat(nn.Cell):
    """The arrays (n,) of all ranks one after the other: (ranks n,)."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.gather = ops.AllGather()

    def construct(self, x: Tensor) -> Tensor:
        return self.gather(x)


class GatheredAllToAll(nn.Cell):
    """`all_to_all` for a CPU, which can only gather the arrays of all ranks of the run.

    Each takes its own parts from them, so all groups must make the same exchanges in the same
    order. Since an exchange only moves numbers, its gradient is the same exchange of the gradient.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(auto_prefix=False)
        self.rank_in_group, self.group_index, self.size, self.num_groups = (
            group.rank_in_group,
            group.group_index,
            group.size,
            group.num_groups,
        )
        self.gather = ops.AllGather()

    def construct(self, x: Tensor) -> Tensor:
        return self._exchanged(x)

    def bprop(self, x: Tensor, _: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (self._exchanged(gradient),)

    def _exchanged(self, x: Tensor) -> Tensor:
        rows = self.gather(x.reshape(self.size, -1)).reshape(
            self.num_groups, self.size, self.size, -1
        )
        sent = kernels.split(rows, 1, 0)[self.group_index]  # (1, from, to, ...)
        return kernels.split(sent, 1, 2)[self.rank_in_group].reshape(x.shape)


def all_to_all(group: Group) -> nn.Cell | ops.Primitive:
    """What sends part p of an array (size, ...) to rank p of `group`, and orders those it gets.

    Part p of the result is rank p's part for this rank. Done twice it changes nothing.
    """
    # With a gradient written here, an Ascend would copy every weight in an update.
    if not kernels.has_all_to_all():
        return GatheredAllToAll(group)
    return ops.AlltoAll(group.size, 0, 0, _communicator(group))


def _communicator(group: Group) -> str:
    """The name of the group in MindSpore; the group is made known there if it is new."""
    if group.num_groups == 1:
        return str(communication.GlobalComm.WORLD_COMM_GROUP)
    name = f"sequence_{group.size}_{group.group_index}"
    communication.create_group(name, group.members)
    return name
