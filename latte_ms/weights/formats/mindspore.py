"""Reading and writing MindSpore's `.ckpt`, tensor by tensor.

The file is a protocol buffer: a sequence of messages {1: value}, each value {1: name, 2: tensor},
each tensor {1: dimension (repeated), 2: name of the dtype, 3: bytes}. Large tensors are split into
consecutive values of the same name. Seventeen bytes of checksum may follow.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.messages import shown
from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.tensors import Progress, Spec, Tensors

_SLICE = 512 << 20  # bytes; a protocol buffer must stay below 2 GiB
_CHECKSUM_MARK, _CHECKSUM_SIZE = b"crc_num", 17
_VARINT, _LENGTH = 0, 2  # wire types
_MAX_FIELDS = 1 << 17  # of a file; a tensor takes about eight
_MAX_DIMENSIONS = 64  # those that can be read have fewer
_LONGEST_STRING = 1 << 10  # bytes of a name
_WINDOW = 1 << 12  # bytes read at once
# Keys of fields: field number * 8 + wire type.
_VALUE = 8 + _LENGTH
_NAME, _TENSOR = 8 + _LENGTH, 16 + _LENGTH
_DIMENSION, _DIMENSIONS, _DTYPE, _CONTENT = 8 + _VARINT, 8 + _LENGTH, 16 + _LENGTH, 24 + _LENGTH


class _Fields(BinaryFile):
    """The file, how many more of its fields are read, and the bytes around the last one."""

    left = _MAX_FIELDS
    _window, _begin = b"", 0

    def near(self, offset: int, count: int) -> bytes:
        """What `read` gives, for a few bytes close to the last ones."""
        start = offset - self._begin
        if start < 0 or start + count > len(self._window):
            self._window, self._begin, start = self.read(offset, _WINDOW), offset, 0
        return self._window[start : start + count]


class _Piece(NamedTuple):
    """One value of the file: a tensor, or a slice of one."""

    name: str
    spec: Spec
    offset: int
    nbytes: int


def read_mindspore(path: Path) -> Tensors:
    """The tensors of a checkpoint, under the network's own names; saved strings are left out.

    Raises WeightError for a file that is truncated, encrypted or no checkpoint.
    """
    file = _Fields(path)
    with located(path):
        end, checksum = _checksum(file)
        pieces = _collect(_pieces(file, end))
    specs = {name: parts[0].spec for name, parts in pieces.items()}

    def fetch(name: str) -> np.ndarray:
        spec = specs[name]
        parts = [file.read_array(p.offset, p.nbytes, "uint8") for p in pieces[name]]
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return data.view(dtypes.numpy_dtype(spec.dtype)).reshape(spec.shape)

    def verify() -> None:
        if checksum is not None and file.crc32(0, end) != checksum:
            raise WeightError("the file is damaged: it has a wrong CRC-32.")

    return Tensors(specs, fetch, "memory", verify, path)


def write_mindspore(path: Path, tensors: Tensors, progress: Progress = None) -> None:
    """Write a file for `mindspore.load_checkpoint`; `progress` counts bytes after each tensor."""
    with atomic_file(path) as partial, partial.open("wb") as stream:
        for name, data in tensors.stream(progress=progress):
            for begin in range(0, max(len(data), 1), _SLICE):
                part = data[begin : begin + _SLICE]
                stream.write(_value_header(name, tensors.specs[name], len(part)))
                stream.write(part)


def _value_header(name: str, spec: Spec, content: int) -> bytes:
    """Everything of a value before its `content` bytes."""
    dtype_name, label = dtypes.BY_NAME[spec.dtype].mindspore.encode(), name.encode()
    fields = b"".join(_encode(_DIMENSION) + _encode(n) for n in spec.shape)
    fields += _encode(_DTYPE) + _encode(len(dtype_name)) + dtype_name
    fields += _encode(_CONTENT) + _encode(content)
    value = _encode(_NAME) + _encode(len(label)) + label
    value += _encode(_TENSOR) + _encode(len(fields) + content) + fields
    return _encode(_VALUE) + _encode(len(value) + content) + value


def _encode(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _checksum(file: BinaryFile) -> tuple[int, int | None]:
    """Where the messages end, and the CRC-32 after them if there is one."""
    tail = file.read(max(file.size - _CHECKSUM_SIZE, 0), _CHECKSUM_SIZE)
    if tail.startswith(_CHECKSUM_MARK):
        return file.size - _CHECKSUM_SIZE, int.from_bytes(tail[len(_CHECKSUM_MARK) :], "big")
    return file.size, None


def _varint(file: _Fields, offset: int, end: int) -> tuple[int, int]:
    """A number at `offset`, and the offset after it."""
    value = 0
    for i, byte in enumerate(file.near(offset, min(10, end - offset))):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, offset + i + 1
    raise WeightError("the file is truncated, or it is not a MindSpore checkpoint.")


def _fields(file: _Fields, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(key, number, offset) per field; of a length, the offset of its bytes, which are not read."""
    while offset < end:
        file.left -= 1
        if file.left < 0:
            raise WeightError(f"it is damaged: it has more than {_MAX_FIELDS} fields.")
        key, offset = _varint(file, offset, end)
        if key % 8 not in (_VARINT, _LENGTH) or key < 8:
            raise WeightError("it is not a MindSpore checkpoint, or it is encrypted.")
        number, offset = _varint(file, offset, end)
        length = number if key % 8 == _LENGTH else 0
        if offset + length > end:
            raise WeightError("the file is truncated, or it is not a MindSpore checkpoint.")
        yield key, number, offset
        offset += length


def _string(file: _Fields, offset: int, length: int) -> str:
    if length > _LONGEST_STRING:
        raise WeightError(f"it is damaged: a name of {length} bytes.")
    try:
        text = file.read(offset, length).decode()
    except UnicodeDecodeError as error:
        raise WeightError("it is not a MindSpore checkpoint, or it is encrypted.") from error
    if not text.isprintable():
        raise WeightError(f"it is damaged: {shown(text)} is no name of a tensor.")
    return text


def _pieces(file: _Fields, end: int) -> Iterator[_Piece]:
    for key, size, begin in _fields(file, 0, end):
        if key != _VALUE:
            raise WeightError("it is not a MindSpore checkpoint, or it is encrypted.")
        name, tensor = "", None
        for inner, length, offset in _fields(file, begin, begin + size):
            if inner == _NAME:
                name = _string(file, offset, length)
            elif inner == _TENSOR:
                tensor = (offset, offset + length)
            else:
                raise WeightError(f"`{name}` is a hash-map parameter, which no network here has.")
        if tensor is None:
            raise WeightError("it is not a MindSpore checkpoint: a value is not a tensor.")
        piece = _piece(file, name, *tensor)
        if piece is not None:
            yield piece


def _piece(file: _Fields, name: str, begin: int, end: int) -> _Piece | None:
    """The tensor between two offsets; None for a string that was saved with the weights."""
    shape: list[int] = []
    dtype_name, content, nbytes = "", 0, 0
    for key, number, offset in _fields(file, begin, end):
        if len(shape) > _MAX_DIMENSIONS:
            raise WeightError(f"`{name}` has more than {_MAX_DIMENSIONS} dimensions.")
        if key == _DIMENSION:
            shape.append(number)
        elif key == _DIMENSIONS:
            packed = offset
            while packed < offset + number and len(shape) <= _MAX_DIMENSIONS:
                dimension, packed = _varint(file, packed, offset + number)
                shape.append(dimension)
        elif key == _DTYPE:
            dtype_name = _string(file, offset, number)
        elif key == _CONTENT:
            content, nbytes = offset, number
    if dtype_name == "str":
        return None
    if dtype_name not in dtypes.BY_MINDSPORE:
        raise WeightError(f"`{name}` has the unknown dtype {shown(dtype_name)}.")
    dims = () if shape == [0] and nbytes else tuple(shape)  # MindSpore's way to write a scalar
    return _Piece(name, Spec(dims, dtypes.BY_MINDSPORE[dtype_name].name), content, nbytes)


def _collect(pieces: Iterator[_Piece]) -> dict[str, list[_Piece]]:
    """Slices grouped by name; raises WeightError where bytes of a tensor are missing."""
    result: dict[str, list[_Piece]] = {}
    for piece in pieces:
        result.setdefault(piece.name, []).append(piece)
    for name, parts in result.items():
        if sum(part.nbytes for part in parts) != parts[0].spec.nbytes:
            raise WeightError(f"the file is truncated or damaged: `{name}` lacks bytes.")
    if not result:
        raise WeightError("it holds no tensors.")
    return result
