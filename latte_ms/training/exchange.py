"""What the ranks exchange in an update."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mindspore import ParameterTuple, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.collectives import (
    AllGatherFlat,
    AllReduceMean,
    FlatAllReduceMean,
    ReduceScatterMean,
)
from latte_ms.parallel.communicator import AllReduceSum
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
        self.reduce: Any = nn.DistributedGradReducer(weights) if distributed else None

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients averaged over the ranks; this rank gets all of them."""
        return gradients if self.reduce is None else self.reduce(gradients)

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """L2 norm of the whole gradient, from what `gradients` returned."""
        return norm_of(sum_of_squares(gradients))

    def own(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The parts of the weights that this rank updates: all."""
        return weights

    def wholes(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The weights from the parts that the ranks have updated."""
        return parts


class OrderedExchange(Exchange):
    """Mean gradients for a network whose ranks also exchange tokens.

    On a CPU all gradients are exchanged as one array, for the reason that `ShardedExchange` gives.
    """

    def __init__(self, weights: ParameterTuple, rank: Rank) -> None:
        super().__init__(weights, distributed=True)
        self.flat_mean = FlatAllReduceMean(rank)
        self.shapes = tuple(tuple(weight.shape) for weight in weights)
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
        self.indices = tuple(range(len(self.sizes)))
        self.offsets = _offsets(self.sizes)

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The means over the ranks, exchanged when the backward pass has exchanged its tokens."""
        if not kernels.on_cpu():
            return self.reduce(gradients)
        flat = self.flat_mean(gradients)
        return tuple([self._mean_of(flat, i) for i in self.indices])

    def _mean_of(self, flat: Tensor, i: int) -> Tensor:
        return ops.slice(flat, (self.offsets[i],), (self.sizes[i],)).reshape(self.shapes[i])


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
        self.indices = tuple(range(len(self.shapes)))
        sizes = [math.prod(shape) for shape in self.shapes]
        # Elements of each weight that a rank updates.
        self.sizes = tuple(
            n // self.count if divided else n
            for n, divided in zip(sizes, self.is_divided, strict=True)
        )
        # Where the elements of this rank begin in the flattened weight.
        self.begins = tuple(
            self.index * n if divided else 0
            for n, divided in zip(self.sizes, self.is_divided, strict=True)
        )
        self.offsets = _offsets(sizes)  # where each weight begins among all, concatenated
        parts = [
            n if divided else 0 for n, divided in zip(self.sizes, self.is_divided, strict=True)
        ]
        # Where each part begins among the divided parts of a rank, concatenated.
        self.part_offsets = _offsets(parts)
        self.mean_part, self.mean = ReduceScatterMean(sharding.rank), AllReduceMean(sharding.rank)
        self.flat_mean = FlatAllReduceMean(sharding.rank)
        self.sum, self.joined = AllReduceSum(), AllGatherFlat()

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients averaged over the ranks: this rank's parts where states are divided."""
        if kernels.on_cpu():
            flat = self.flat_mean(gradients)
            return tuple([self._own_of(flat, i, self.offsets[i]) for i in self.indices])
        return tuple([self._exchanged(i, gradients[i]) for i in self.indices])

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """L2 norm of the whole gradient, from the parts that `gradients` returned."""
        divided = tuple([gradients[i] for i in self.indices if self.is_divided[i]])
        same = tuple([gradients[i] for i in self.indices if not self.is_divided[i]])
        return norm_of(self.sum(sum_of_squares(divided)) + sum_of_squares(same))

    def own(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The parts of the weights that this rank updates."""
        return tuple([self._own_part(i, weights[i]) for i in self.indices])

    def wholes(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The weights from the parts that the ranks have updated."""
        divided = tuple([parts[i] for i in self.indices if self.is_divided[i]])
        if not divided:
            return parts
        if not kernels.on_cpu():
            return tuple([self._joined(i, parts[i]) for i in self.indices])
        rows = self.joined(kernels.concat(divided, 0)).reshape(self.count, -1)
        return tuple([self._whole(rows, i, parts[i]) for i in self.indices])

    def _own_part(self, i: int, weight: Tensor) -> Tensor:
        if not self.is_divided[i]:
            return weight
        flat = weight.reshape(-1)
        if kernels.on_cpu():  # a slice compiles faster, and has no fast kernel on an Ascend
            return self._own_of(flat, i, 0)
        return kernels.split(flat, self.sizes[i], 0)[self.index]

    def _exchanged(self, i: int, gradient: Tensor) -> Tensor:
        if self.is_divided[i]:
            return self.mean_part(gradient.reshape(-1))
        return self.mean(gradient)

    def _own_of(self, flat: Tensor, i: int, offset: int) -> Tensor:
        """What this rank updates, from numbers in which weight number `i` begins at `offset`."""
        own = ops.slice(flat, (offset + self.begins[i],), (self.sizes[i],))
        return own if self.is_divided[i] else own.reshape(self.shapes[i])

    def _whole(self, rows: Tensor, i: int, part: Tensor) -> Tensor:
        """Weight number `i` from the divided parts of all ranks, one row per rank."""
        if not self.is_divided[i]:
            return part
        columns = ops.slice(rows, (0, self.part_offsets[i]), (self.count, self.sizes[i]))
        return columns.reshape(self.shapes[i])

    def _joined(self, i: int, part: Tensor) -> Tensor:
        return self.joined(part).reshape(self.shapes[i]) if self.is_divided[i] else part


def _offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each of consecutive parts begins."""
    return tuple(accumulate(sizes, initial=0))[:-1]
