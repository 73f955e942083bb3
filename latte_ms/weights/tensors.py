"""Named arrays that are computed one at a time, when they are asked for."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError, located

Shape = tuple[int, ...]
Naming = Literal["disk", "memory"]
_MOST_DIMENSIONS = 32  # numpy's limit


@dataclass(frozen=True)
class Spec:
    """Shape and element type of a tensor that has not been read."""

    shape: Shape
    dtype: str  # a name of `dtypes.TABLE`

    def __post_init__(self) -> None:
        if len(self.shape) > _MOST_DIMENSIONS:
            raise WeightError(f"a tensor has {len(self.shape)} dimensions; the file is damaged.")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * dtypes.BY_NAME[self.dtype].itemsize


class Tensors(Mapping[str, np.ndarray]):
    """Mapping name -> array. Every lookup reads or computes the array anew; nothing is kept.

    Args:
        specs: shape and type per name, in the order of the file.
        fetch: makes the array of a name; its shape and type must be those of `specs`.
        naming: whose names these are: the reference's ("disk") or the network's ("memory").
        verify: checks all bytes that `fetch` would return, and raises WeightError.
        path: the file behind them, for messages.
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
        with self._located():
            return self._fetch(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def data(self, name: str) -> memoryview:
        """The elements of a tensor as bytes: row-major, little-endian, as every format has them."""
        array = self[name]
        found = Spec(array.shape, dtypes.dtype_name(array.dtype))
        if found != self.specs[name]:
            raise WeightError(f"`{name}` must be {self.specs[name]}, got {found}.")
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs.values())

    def verify(self) -> None:
        """Check the stored checksums, where the format has any; raises WeightError."""
        if self._verify is not None:
            with self._located():
                self._verify()

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """The same arrays under other names; `names` maps each new name to its present one."""
        specs = {new: self.specs[old] for new, old in names.items()}
        return Tensors(specs, lambda new: self[names[new]], self.naming, self.verify)

    def cast(self, dtype: str) -> "Tensors":
        """Floating-point tensors in another type; others stay as they are.

        Raises WeightError while reading if a finite value has no finite counterpart.
        """
        target = dtypes.BY_NAME.get(dtype)
        if target is None or not target.floating:
            raise WeightError(f"`dtype` must be a floating-point type, got {dtype!r}.")
        specs = {
            name: Spec(spec.shape, dtype) if dtypes.BY_NAME[spec.dtype].floating else spec
            for name, spec in self.specs.items()
        }

        def fetch(name: str) -> np.ndarray:
            return cast_array(name, self[name], specs[name].dtype)

        return Tensors(specs, fetch, self.naming, self.verify)

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        try:
            yield
        except WeightError as error:
            if self._path is None:
                raise
            raise located(error, self._path) from error


def from_arrays(arrays: Mapping[str, np.ndarray], naming: Naming = "disk") -> Tensors:
    """Arrays that are in memory already."""
    specs = {name: Spec(a.shape, dtypes.dtype_name(a.dtype)) for name, a in arrays.items()}
    return Tensors(specs, arrays.__getitem__, naming)


def cast_array(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The values in another type; raises WeightError where a finite one becomes infinite."""
    if array.dtype.name == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtypes.numpy_dtype(dtype))
    lost = np.isfinite(array) & ~np.isfinite(result)
    if lost.any():
        value = float(array[lost].flat[0])
        raise WeightError(f"`{name}` does not fit into {dtype}: it holds {value:.3g}.")
    return result
