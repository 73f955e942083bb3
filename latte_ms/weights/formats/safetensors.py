"""`.safetensors` files: read by the format's library, written tensor by tensor.

The library's `serialize_file` takes all tensors at once (1.06 GB resident for a file of 1.07 GB),
so the writer here produces the format itself: the header's length (8 bytes, little-endian), a JSON
header {name: {dtype, shape, data_offsets}}, then the tensors' bytes without gaps.
"""

import json
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from latte_ms.atomic import atomic_file
from latte_ms.messages import one_line
from latte_ms.weights import dtypes
from latte_ms.weights.checksums import verify_file
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.formats import limits
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.tensors import Progress, Spec, Tensors

_LENGTH = 8  # bytes of the header's length


def read_safetensors(path: Path) -> Tensors:
    """The tensors of one file, under the names it holds, in the order of the file.

    Raises WeightError for a file that is truncated, damaged or of another format.
    """
    binary = BinaryFile(path)  # a missing file or a git-lfs pointer has a message of its own
    with located(path):
        length = int.from_bytes(binary.read(0, _LENGTH), "little")
        if length <= binary.size:
            limits.check_header(length)
        # Its default backend maps the file into memory: all of it is resident in the end.
        file = _call(safe_open, path, "numpy", backend="pread")
        names = _call(file.offset_keys)
        limits.check_count(names)
        limits.parse_json(
            binary.read(_LENGTH, length)
        )  # the library silently takes the last of duplicate keys
        specs = {name: _spec(name, _call(file.get_slice, name)) for name in names}

    def fetch(name: str) -> np.ndarray:
        dtypes.numpy_dtype(specs[name].dtype)  # the library needs bfloat16 to be registered
        array: np.ndarray = _call(file.get_tensor, name)
        return array

    return Tensors(specs, fetch, verify=partial(verify_file, path), path=path)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file carries besides its tensors.

    Raises WeightError for a file that is truncated, damaged or of another format.
    """
    binary = BinaryFile(path)
    with located(path):
        length = int.from_bytes(binary.read(0, _LENGTH), "little")
        limits.check_header(length)
        header = limits.parse_json(binary.read(_LENGTH, length))
        metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(metadata, dict):
            raise WeightError("the file is damaged: its metadata must be an object of texts.")
        return {name: value for name, value in metadata.items() if isinstance(value, str)}


def write_safetensors(
    path: Path,
    tensors: Tensors,
    progress: Progress = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write all tensors; `progress` is called with the number of bytes after each.

    `metadata` are texts that the file carries besides its tensors.
    """
    # Wide dtypes first, as the library writes them: every tensor is then aligned.
    order = sorted(tensors, key=lambda name: -_row(tensors.specs[name]).itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
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
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.stream(order, progress):
            stream.write(data)


def _row(spec: Spec) -> dtypes.Dtype:
    return dtypes.BY_NAME[spec.dtype]


def _call(function: Any, *arguments: Any, **options: Any) -> Any:
    """A call of the library, which has an exception of its own and raises others too."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise WeightError(
            f"the file is truncated, damaged or no safetensors file ({one_line(error)})."
        ) from error


def _spec(name: str, tensor: Any) -> Spec:
    code = tensor.get_dtype()
    if code not in dtypes.BY_SAFETENSORS:
        known = ", ".join(dtypes.BY_SAFETENSORS)
        raise WeightError(f"`{name}` has the dtype {code}; known dtypes are {known}.")
    return Spec(tuple(tensor.get_shape()), dtypes.BY_SAFETENSORS[code].name)
