"""What the ranks exchange in an update."""

import math

from mindspore import ParameterTuple, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.collectives import Joined, Mean, MeanPart, Sum
from latte_ms.runtime import Rank
from latte_ms.training.optimizer import norm_of, sum_of_squares
from latte_ms.training.sharding import Sharding


class Exchange(nn.Cell):
    """What the ranks exchange in an update: nothing, or gradients whose means all of them need.

    Args:
        weights: the trainable parameters.
        distributed: as in `TrainStep`.
    """

    def __init__(self, weights: ParameterTuple, distributed: bool) -> None:
        super().__init__(auto_prefix=False)
        self.reduce = nn.DistributedGradReducer(weights) if distributed else None

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of the means over the ranks what this rank updates with: all."""
        return gradients if self.reduce is None else self.reduce(gradients)

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """L2 norm of the whole gradient, from what `gradients` returned."""
        return norm_of(sum_of_squares(gradients))

    def own(self, i: int, weight: Tensor) -> Tensor:
        """The part of weight number `i` that this rank updates: all."""
        return weight

    def wholes(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The weights from the parts that the ranks have updated."""
        return parts


class MeansAsOne(nn.Cell):
    """The means over the ranks of arrays of these shapes, which are exchanged as one array.

    For a CPU, whose kernels run when their inputs are there, in an order that differs between
    ranks, so that two exchanges that do not depend on each other would wait for each other for
    ever. An Ascend runs them one after the other, in the order of the graph.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...], rank: Rank) -> None:
        super().__init__(auto_prefix=False)
        self.shapes = shapes
        self.sizes = tuple(math.prod(shape) for shape in shapes)
        self.indices = tuple(range(len(shapes)))
        self.mean = Mean(rank)

    def construct(self, arrays: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        flat = kernels.concat(tuple([array.reshape(-1) for array in arrays]), 0)
        parts = ops.split(self.mean(flat), self.sizes, 0)
        means: tuple[Tensor, ...] = ()
        for i in self.indices:
            means = (*means, parts[i].reshape(self.shapes[i]))
        return means


class OrderedExchange(Exchange):
    """For a network that exchanges arrays itself: gradients follow when it has done so."""

    def __init__(self, weights: ParameterTuple, rank: Rank) -> None:
        super().__init__(weights, distributed=False)
        self.each = nn.DistributedGradReducer(weights)
        self.means = MeansAsOne(tuple(tuple(weight.shape) for weight in weights), rank)

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The means over the ranks."""
        return self.means(gradients) if kernels.on_cpu() else self.each(gradients)


class ShardedExchange(Exchange):
    """For states that are divided over the ranks; see `MeansAsOne` for what a CPU does."""

    def __init__(self, weights: ParameterTuple, sharding: Sharding) -> None:
        super().__init__(weights, distributed=False)
        self.index, self.count = sharding.rank.index, sharding.rank.count
        self.is_divided, self.shapes = sharding.is_divided, sharding.shapes
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
        self.indices = tuple(range(len(self.sizes)))
        divided = [
            size for size, is_divided in zip(self.sizes, self.is_divided, strict=True) if is_divided
        ]
        self.part_sizes = tuple(size // self.count for size in divided)
        self.mean_part, self.mean = MeanPart(sharding.rank), Mean(sharding.rank)
        self.means = MeansAsOne(self.shapes, sharding.rank)
        self.sum, self.joined = Sum(), Joined()

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of the means over the ranks what this rank updates with."""
        parts: tuple[Tensor, ...] = ()
        if kernels.on_cpu():
            means = self.means(gradients)
            for i in self.indices:
                parts = (*parts, self.own(i, means[i]))
            return parts
        for i in self.indices:
            if self.is_divided[i]:
                parts = (*parts, self.mean_part(gradients[i].reshape(-1)))
            else:
                parts = (*parts, self.mean(gradients[i]))
        return parts

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """L2 norm of the whole gradient, from the parts that `gradients` returned."""
        divided: tuple[Tensor, ...] = ()
        same: tuple[Tensor, ...] = ()
        for i in self.indices:
            if self.is_divided[i]:
                divided = (*divided, gradients[i])
            else:
                same = (*same, gradients[i])
        return norm_of(self.sum(sum_of_squares(divided)) + sum_of_squares(same))

    def own(self, i: int, weight: Tensor) -> Tensor:
        """The part of weight number `i` that this rank updates."""
        if not self.is_divided[i]:
            return weight
        return kernels.split(weight.reshape(-1), self.sizes[i] // self.count, 0)[self.index]

    def wholes(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The weights from the parts that the ranks have updated."""
        divided: tuple[Tensor, ...] = ()
        for i in self.indices:
            if self.is_divided[i]:
                divided = (*divided, parts[i])
        joined = self._join(divided)
        weights: tuple[Tensor, ...] = ()
        for i in self.indices:
            if self.is_divided[i]:
                weights = (*weights, joined[0].reshape(self.shapes[i]))
                joined = joined[1:]
            else:
                weights = (*weights, parts[i])
        return weights

    def _join(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """For each (n / ranks,) the parts of all ranks, in some shape of n numbers."""
        if kernels.on_cpu():
            rows = self.joined(kernels.concat(parts, 0)).reshape(self.count, -1)
            return ops.split(rows, self.part_sizes, 1)
        joined: tuple[Tensor, ...] = ()
        for part in parts:
            joined = (*joined, self.joined(part))
        return joined
