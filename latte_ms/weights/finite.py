"""NaN and infinite values in weights: no network was trained to hold them, so they are damage."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latte_ms.weights.errors import WeightError
from latte_ms.weights.tensors import Tensors

# A value is NaN or infinite where all bits of its exponent are set.
_EXPONENT = {
    "float64": 0x7FF << 52,
    "float32": 0xFF << 23,
    "float16": 0x1F << 10,
    "bfloat16": 0xFF << 7,
}
_CHUNK = 1 << 18  # elements, which stay in the processor's cache
_SHOWN = 4  # tensors in the message


def count_non_finite(array: np.ndarray) -> int:
    """Number of NaN and infinite values."""
    exponent = _EXPONENT.get(array.dtype.name)
    if exponent is None:
        return 0
    bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
    mask = bits.dtype.type(exponent)
    parts = (bits[i : i + _CHUNK] for i in range(0, len(bits), _CHUNK))
    return sum(int(np.count_nonzero((part & mask) == mask)) for part in parts)


def refuse(counts: Mapping[str, int], tensors: Tensors) -> None:
    """Raise one WeightError for the tensors whose count of such values is not 0, if any."""
    bad = {name: count for name, count in counts.items() if count}
    if not bad:
        return
    shown = [f"`{name}` ({bad[name]} of {tensors.specs[name].size})" for name in [*bad][:_SHOWN]]
    rest = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    raise WeightError(
        f"it is damaged: {len(bad)} of {len(tensors)} tensors hold NaN or infinite values: "
        f"{', '.join(shown)}{rest}."
    )


def checked(tensors: Tensors, path: str | Path) -> Tensors:
    """The same tensors, for a network that reads them later: a lookup refuses such values."""

    def fetch(name: str) -> np.ndarray:
        array = tensors[name]
        refuse({name: count_non_finite(array)}, tensors)
        return array

    return Tensors(tensors.specs, fetch, tensors.naming, tensors.verify, Path(path))
