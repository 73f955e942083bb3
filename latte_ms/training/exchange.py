"""What the ranks exchange in an update."""

import math

from mindspore import ParameterTuple, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.collectives import Joined, Mean, MeanPart, Sum
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


class ShardedExchange(Exchange):
    """For states that are divided over the ranks.

    On a CPU all arrays are exchanged as one. Its kernels run when their inputs are there, in an
    order that differs between ranks, so two exchanges that do not depend on each other would wait
    for each other for ever. An Ascend runs them one after the other, in the order of the graph.
    """

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
        self.sum, self.joined = Sum(), Joined()

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of the means over the ranks what this rank updates with."""
        parts: tuple[Tensor, ...] = ()
        if kernels.on_cpu():
            flat = kernels.concat(tuple([g.reshape(-1) for g in gradients]), 0)
            means = ops.split(self.mean(flat), self.sizes, 0)
            for i in self.indices:
                parts = (*parts, self.own(i, means[i].reshape(self.shapes[i])))
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
