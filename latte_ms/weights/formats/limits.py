"""What a weight file may ask for, checked before anything of that size is read or made."""

import json
from collections.abc import Sized
from typing import Any

from latte_ms.weights.errors import WeightError

LARGEST_HEADER = 1 << 23  # bytes of names and shapes; fifty thousand tensors need less
_MAX_TENSORS = 1 << 16
# Views may share bytes, and archives may be compressed: tensors of a whole file are larger than
# the file, but not a hundred times.
_SMALL, _TIMES = 64 << 20, 16


def check_count(tensors: Sized) -> None:
    """Raise WeightError for more tensors than any network has."""
    if len(tensors) > _MAX_TENSORS:
        raise WeightError(f"it holds {len(tensors)} tensors; the most is {_MAX_TENSORS}.")


def check_total(nbytes: int, size: int) -> None:
    """Raise WeightError if reading all of a file of `size` bytes would make far more of them."""
    limit = _SMALL + _TIMES * size
    if nbytes > limit:
        raise WeightError(
            f"the file is damaged: its tensors would take {nbytes} bytes, and from a file of "
            f"{size} bytes the most is {limit}."
        )


def check_header(nbytes: int) -> None:
    """Raise WeightError for names and shapes of too many bytes."""
    if nbytes > LARGEST_HEADER:
        raise WeightError(
            f"its names and shapes take {nbytes} bytes; the most is {LARGEST_HEADER}."
        )


def parse_json(data: bytes) -> Any:
    """The value of a JSON text; raises WeightError for a damaged one and for a key twice."""
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except WeightError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightError(f"its JSON is damaged ({error}).") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise WeightError("it is damaged: its JSON has a key twice.")
    return result
