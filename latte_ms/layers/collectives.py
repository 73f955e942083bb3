"""Exchange of arrays between the ranks of a run, inside a graph."""

from mindspore import Tensor, nn, ops

from latte_ms.runtime import Rank


class MeanPart(nn.Cell):
    """This rank's part (n / ranks,) of the mean over the ranks of an array (n,); not on a CPU."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.count = rank.count
        self.scatter = ops.ReduceScatter()

    def construct(self, x: Tensor) -> Tensor:
        return self.scatter(x) * (1.0 / self.count)


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
