"""Optimizer states divided over the ranks: stage 1 of ZeRO (arXiv 1910.02054).

Of a weight with n numbers each rank keeps the moments and averages of n / ranks: an equal part of
the flattened array. It gets that part of the mean gradient, updates that part of the weight, and
the parts of all ranks together are the new weight. Weights whose size the number of ranks does not
divide have their states on all ranks. The arithmetic of a number is the same as without; only the
gradient's norm is summed in another order.
"""

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor

from latte_ms.layers.collectives import AllGatherFlat
from latte_ms.runtime import Rank


class Sharding:
    """Which states of `weights` are divided, and how; every rank must make the same calls."""

    def __init__(self, rank: Rank, weights: ParameterTuple) -> None:
        self.rank = rank
        self.shapes = tuple(tuple(weight.shape) for weight in weights)
        self.is_divided = tuple(
            rank.count > 1 and weight.size % rank.count == 0 for weight in weights
        )
        self._joined = AllGatherFlat() if rank.count > 1 else None

    def clone(self, weights: ParameterTuple, prefix: str, zeros: bool) -> ParameterTuple:
        """This rank's parts of parameters like `weights`, named `prefix`.name."""
        made = []
        for i, weight in enumerate(weights):
            array = np.zeros(weight.shape, np.float32) if zeros else weight.asnumpy()
            name, trained = f"{prefix}.{weight.name}", weight.requires_grad
            made.append(Parameter(Tensor(self.part(i, array)), name, trained))
        return ParameterTuple(made)

    def part(self, i: int, array: np.ndarray) -> np.ndarray:
        """This rank's part of an array with the shape of weight number `i`."""
        if not self.is_divided[i]:
            return array.copy()
        return np.split(array.reshape(-1), self.rank.count)[self.rank.index].copy()

    def wholes(self, parts: ParameterTuple, everywhere: bool) -> ParameterTuple:
        """Whole arrays from the parts of all ranks, in the order of the weights.

        On the first rank, or `everywhere`; on the other ranks the result has no use.
        """
        made = []
        for i, part in enumerate(parts):
            if not self.is_divided[i] or self._joined is None:
                made.append(part)
                continue
            joined = self._joined(part)
            if everywhere or self.rank.is_first:
                made.append(Parameter(Tensor(joined.asnumpy().reshape(self.shapes[i])), part.name))
        return ParameterTuple(made)


def check_shard_states(shard_states: bool, distributed: bool) -> None:
    """Raise ValueError for the key `optimizer.shard_states` of a run with a single rank."""
    if shard_states and not distributed:
        raise ValueError("`optimizer.shard_states` needs `runtime.distributed` true, got false.")


def refuse(name: str, value: object, allowed: object, other: str) -> None:
    """Raise ValueError if the key `name` has another value than the one `allowed` with `other`."""
    if value != allowed:
        raise ValueError(f"`{name}` must be {allowed} with {other}, got {value}.")
