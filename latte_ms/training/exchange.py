"""What the ranks exchange in an update."""

from mindspore import ParameterTuple, Tensor, nn

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

    def whole(self, i: int, part: Tensor) -> Tensor:
        """Weight number `i` from the parts that the ranks have updated."""
        return part


class ShardedExchange(Exchange):
    """For states that are divided over the ranks."""

    def __init__(self, weights: ParameterTuple, sharding: Sharding) -> None:
        super().__init__(weights, distributed=False)
        self.index, self.count = sharding.rank.index, sharding.rank.count
        self.is_divided, self.shapes = sharding.is_divided, sharding.shapes
        self.mean_part = MeanPart(sharding.rank)
        self.mean = Mean(sharding.rank)
        self.sum = Sum()
        self.joined = Joined()

    def gradients(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of the means over the ranks what this rank updates with."""
        parts: tuple[Tensor, ...] = ()
        for i in range(len(self.is_divided)):
            if self.is_divided[i]:
                parts = (*parts, self.mean_part(gradients[i].reshape(-1)))
            else:
                parts = (*parts, self.mean(gradients[i]))
        return parts

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """L2 norm of the whole gradient, from the parts that `gradients` returned."""
        divided: tuple[Tensor, ...] = ()
        same: tuple[Tensor, ...] = ()
        for i in range(len(self.is_divided)):
            if self.is_divided[i]:
                divided = (*divided, gradients[i])
            else:
                same = (*same, gradients[i])
        return norm_of(self.sum(sum_of_squares(divided)) + sum_of_squares(same))

    def own(self, i: int, weight: Tensor) -> Tensor:
        """The part of weight number `i` that this rank updates."""
        if not self.is_divided[i]:
            return weight
        flat = weight.reshape(-1)
        return kernels.split(flat, flat.shape[0] // self.count, 0)[self.index]

    def whole(self, i: int, part: Tensor) -> Tensor:
        """Weight number `i` from the parts that the ranks have updated."""
        if not self.is_divided[i]:
            return part
        return self.joined(part).reshape(self.shapes[i])
