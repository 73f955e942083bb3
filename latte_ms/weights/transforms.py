"""Exact rearrangements between a tensor on disk and its parameters in memory."""

import math
from collections.abc import Mapping

import numpy as np

from latte_ms.weights.errors import WeightError
from latte_ms.weights.tensors import Shape


class Transform:
    """One tensor on disk and the parameters it becomes; this one is the same on both sides."""

    def disk_shapes(self, memory: list[Shape], sizes: Mapping[str, int]) -> list[Shape]:
        """Shapes accepted on disk for these shapes in memory; the first is the one written.

        `sizes` are fields of the network's config.
        """
        return memory

    def memory_shapes(self, disk: Shape, count: int) -> list[Shape]:
        """The shapes of `count` parameters for a shape on disk."""
        return [disk]

    def split(self, array: np.ndarray, shapes: list[Shape]) -> list[np.ndarray]:
        """Disk to memory, into arrays of `shapes`."""
        return [array.reshape(shapes[0])]

    def join(self, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Memory to disk, into an array of `shape`."""
        return arrays[0].reshape(shape)


class Patches(Transform):
    """Convolution kernel (D, C, p, p) on disk, Linear weight (D, C*p*p) in memory."""

    def disk_shapes(self, memory: list[Shape], sizes: Mapping[str, int]) -> list[Shape]:
        hidden_size, values = memory[0]
        channels = sizes["in_channels"]
        side = math.isqrt(values // channels)
        if channels * side * side != values:
            raise WeightError(
                f"`in_channels` (={channels}) does not fit a patch embedding of {values} values: "
                "they must be channels times a square."
            )
        return [(hidden_size, channels, side, side)]

    def memory_shapes(self, disk: Shape, count: int) -> list[Shape]:
        return [(disk[0], math.prod(disk[1:]))]


class Pointwise(Transform):
    """A linear layer that older files store as a convolution (out, in, 1, 1)."""

    def disk_shapes(self, memory: list[Shape], sizes: Mapping[str, int]) -> list[Shape]:
        shape = memory[0]
        return [shape, (*shape, 1, 1)] if len(shape) == 2 else [shape]

    def memory_shapes(self, disk: Shape, count: int) -> list[Shape]:
        return [disk[:2] if disk[2:] == (1, 1) else disk]


class StackedRows(Transform):
    """Several tensors of one shape (R, ...), concatenated on disk: (count * R, ...)."""

    def disk_shapes(self, memory: list[Shape], sizes: Mapping[str, int]) -> list[Shape]:
        if len(set(memory)) != 1:
            raise WeightError(f"tensors stored as one must have one shape, got {memory}.")
        rows, *rest = memory[0]
        return [(len(memory) * rows, *rest)]

    def memory_shapes(self, disk: Shape, count: int) -> list[Shape]:
        if not disk or disk[0] % count:
            raise WeightError(f"a tensor of {count} stacked parts cannot have the shape {disk}.")
        return [(disk[0] // count, *disk[1:])] * count

    def split(self, array: np.ndarray, shapes: list[Shape]) -> list[np.ndarray]:
        return np.split(array, len(shapes))

    def join(self, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
        return np.concatenate(arrays)


TRANSFORMS: dict[str, Transform] = {
    "same": Transform(),
    "patches": Patches(),
    "pointwise": Pointwise(),
    "stacked rows": StackedRows(),
}
