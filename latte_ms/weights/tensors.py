"""Named arrays that are read or computed one at a time, at each lookup."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from latte_ms.messages import shown
from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError, located

Shape = tuple[int, ...]
Naming = Literal["disk", "memory"]
Progress = Callable[[int], object] | None
_MAX_DIMENSIONS = 32  # numpy's limit
_MAX_ELEMENTS = 1 << 56  # in bytes it must fit into numpy's 63 bits


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of a tensor that has not been read."""

    shape: Shape
    dtype: str  # a name of `dtypes.TABLE`

    def __post_init__(self) -> None:
        if len(self.shape) > _MAX_DIMENSIONS:
            raise WeightError(f"a tensor has {len(self.shape)} dimensions; the file is damaged.")
        if math.prod(max(n, 1) for n in self.shape) > _MAX_ELEMENTS:  # numpy counts empty axes as 1
            raise WeightError(f"a tensor has the shape {shown(self.shape)}; the file is damaged.")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return dtypes.BY_NAME[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def is_floating(self) -> bool:
        return dtypes.BY_NAME[self.dtype].floating


class Tensors(Mapping[str, np.ndarray]):
    """Mapping name -> array. Every lookup reads or computes the array anew; nothing is cached.

    Args:
        specs: shape and dtype per name, in the order of the file.
        fetch: makes the array of a name, whose shape and dtype must be those of `specs`.
        naming: whose names these are: the reference's ("disk") or the network's ("memory").
        verify: checks all bytes that `fetch` would return, and raises WeightError.
        path: the file that holds them, for messages.
    """

    def __init__(
        self,
        specs: Mapping[str, Spec],
        fetch: Callable[[str], np.ndarray],
        naming: Naming = "disk",
        verify: Callable[[], None] | None = None,
        path: Path | None = None,
    ) -> None:
        self.specs = dict(specs)
        self.naming = naming
        self._fetch = fetch
        self._verify = verify
        self._path = path

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.specs:
            raise KeyError(name)
        with located(self._path):
            return self._fetch(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def data(self, name: str) -> memoryview:
        """The elements of a tensor as bytes: row-major, little-endian, as every format has them."""
        array = self[name]
        actual = Spec(array.shape, dtypes.dtype_name(array.dtype))
        if actual != self.specs[name]:
            raise WeightError(f"`{name}` must be {self.specs[name]}, got {actual}.")
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    def stream(
        self, names: Iterable[str] | None = None, progress: Progress = None
    ) -> Iterator[tuple[str, memoryview]]:
        """(name, bytes) of all tensors, or of `names`, one at a time.

        `progress` is called with the number of bytes after each tensor.
        """
        for name in self if names is None else names:
            data = self.data(name)
            yield name, data
            if progress is not None:
                progress(len(data))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs.values())

    def verify(self) -> None:
        """Check the stored checksums, where the format has any; raises WeightError."""
        if self._verify is not None:
            with located(self._path):
                self._verify()

    def renamed(self, names: Mapping[str, str], naming: Naming | None = None) -> "Tensors":
        """The same arrays under other names; `names` maps each new name to its present one.

        `naming` tells whose the new names are; None: as before.
        """
        specs = {new: self.specs[old] for new, old in names.items()}
        return Tensors(specs, lambda new: self[names[new]], naming or self.naming, self.verify)

    def cast(self, dtype: str) -> "Tensors":
        """Floating-point tensors in another dtype; others stay as they are.

        Raises WeightError while reading if a finite value has no finite counterpart.
        """
        if dtype not in dtypes.BY_NAME or not dtypes.BY_NAME[dtype].floating:
            raise WeightError(f"`dtype` must be a floating-point dtype, got {dtype!r}.")
        specs = {
            name: Spec(spec.shape, dtype) if spec.is_floating else spec
            for name, spec in self.specs.items()
        }

        def fetch(name: str) -> np.ndarray:
            return cast_array(name, self[name], specs[name].dtype)

        return Tensors(specs, fetch, self.naming, self.verify)


def from_arrays(arrays: Mapping[str, np.ndarray], naming: Naming = "disk") -> Tensors:
    """Tensors of arrays that are in memory already."""
    specs = {name: Spec(a.shape, dtypes.dtype_name(a.dtype)) for name, a in arrays.items()}
    return Tensors(specs, arrays.__getitem__, naming)


def cast_array(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The values in another dtype; raises WeightError where a finite one becomes infinite."""
    if array.dtype.name == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtypes.numpy_dtype(dtype))
    overflow = np.isfinite(array) & ~np.isfinite(result)
    if overflow.any():
        value = float(array[overflow].flat[0])
        raise WeightError(f"`{name}` does not fit into {dtype}: it holds {value:.3g}.")
    return result
