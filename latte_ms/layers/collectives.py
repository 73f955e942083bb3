"""Exchange of arrays between the ranks of a run, inside a graph."""

from mindspore import Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.runtime import Rank


class MeanPart(nn.Cell):
    """This rank's part (n / ranks,) of the mean over the ranks of an array (n,)."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.index, self.count = rank.index, rank.count
        self.sum = ops.AllReduce()
        self.scatter = ops.ReduceScatter()

    def construct(self, x: Tensor) -> Tensor:
        if kernels.on_cpu():  # has no kernel that reduces and scatters
            total = kernels.split(self.sum(x), x.shape[0] // self.count, 0)[self.index]
        else:
            total = self.scatter(x)
        return total * (1.0 / self.count)


class Mean(nn.Cell):
    """The mean over the ranks of an array of any shape."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.count = rank.count
        self.sum = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.sum(x) * (1.0 / self.count)


class Sum(nn.Cell):
    """The sum over the ranks of an array of any shape."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.sum = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.sum(x)


class Joined(nn.Cell):
    """The arrays (n,) of all ranks one after the other: (ranks n,)."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.gather = ops.AllGather()

    def construct(self, x: Tensor) -> Tensor:
        return self.gather(x)
