"""Reading and writing one `.safetensors` file, tensor by tensor.

The format: the header's length (8 bytes, little-endian), a JSON header {name: {dtype, shape,
data_offsets}}, then the tensors' bytes without gaps.
"""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latte_ms.weights import dtypes
from latte_ms.weights.binary_file import BinaryFile, appearing
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.tensors import Spec, Tensors

_LARGEST_HEADER = 100_000_000  # the limit of the format's own library
_METADATA = "__metadata__"


def read_safetensors(path: Path) -> Tensors:
    """The tensors of one file, under the names it holds.

    Raises WeightError for a file that is truncated or breaks the format.
    """
    file = BinaryFile(path)
    try:
        header, start = _header(file)
        specs = {name: _spec(name, value) for name, value in header.items()}
        offsets = _offsets(header, specs, file.size - start)
    except WeightError as error:
        raise located(error, path) from error

    def fetch(name: str) -> Any:
        spec = specs[name]
        flat = file.read_array(start + offsets[name], spec.size, spec.dtype)
        return flat.reshape(spec.shape)

    return Tensors(specs, fetch, path=path)


def write_safetensors(
    path: Path, tensors: Tensors, progress: Callable[[int], None] | None = None
) -> None:
    """Write all tensors; `progress` is called with the number of bytes after each."""
    # Wide types first, as the format's library writes them: every tensor is then aligned.
    order = sorted(tensors.specs, key=lambda name: -_row(tensors.specs[name]).itemsize)
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    end = 0
    for name in order:
        spec, begin = tensors.specs[name], end
        end += spec.nbytes
        header[name] = {
            "dtype": _row(spec).safetensors,
            "shape": list(spec.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with appearing(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            data = tensors.data(name)
            stream.write(data)
            if progress is not None:
                progress(len(data))


def _row(spec: Spec) -> dtypes.Dtype:
    return dtypes.BY_NAME[spec.dtype]


def _header(file: BinaryFile) -> tuple[dict[str, Any], int]:
    """The JSON header without its metadata, and where the tensors begin."""
    if file.size < 8:
        raise WeightError(f"the file is truncated: it has only {file.size} bytes.")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > _LARGEST_HEADER:
        raise WeightError(f"it is no safetensors file: its header would have {length} bytes.")
    if 8 + length > file.size:
        raise WeightError("the file is truncated within its header.")
    try:
        header = json.loads(file.read(8, length), object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightError(f"it is no safetensors file: its header is no JSON ({error}).") from error
    if not isinstance(header, dict):
        raise WeightError("it is no safetensors file: its header is no table of tensors.")
    header.pop(_METADATA, None)
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise WeightError("its header holds a name twice.")
    return result


def _spec(name: str, value: Any) -> Spec:
    try:
        code, shape = value["dtype"], tuple(value["shape"])
        begin, end = value["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise WeightError(f"its header is damaged at `{name}`.") from error
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise WeightError(f"its header is damaged at `{name}`.")
    if code not in dtypes.BY_SAFETENSORS:
        known = ", ".join(dtypes.BY_SAFETENSORS)
        raise WeightError(f"`{name}` has the type {code}; known types are {known}.")
    row = dtypes.BY_SAFETENSORS[code]
    if end - begin != math.prod(shape) * row.itemsize:
        raise WeightError(f"`{name}` has a shape that does not agree with its size.")
    return Spec(shape, row.name)


def _offsets(header: dict[str, Any], specs: dict[str, Spec], room: int) -> dict[str, int]:
    """Where each tensor begins; the tensors fill `room` bytes without gaps or overlaps."""
    offsets = {name: header[name]["data_offsets"][0] for name in specs}
    end = 0
    for name in sorted(specs, key=lambda name: header[name]["data_offsets"]):
        if offsets[name] != end:
            raise WeightError(f"its header is damaged: `{name}` overlaps another or leaves a gap.")
        end = header[name]["data_offsets"][1]
    if end > room:
        raise WeightError(f"the file is truncated: {end - room} of {end} bytes are missing.")
    if end < room:
        raise WeightError(f"the file holds {room - end} bytes that belong to no tensor.")
    return offsets
