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
from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.tensors import Progress, Spec, Tensors

_SLICE = 512 << 20  # bytes; a protocol buffer must stay below 2 GiB
_CHECKSUM_MARK, _CHECKSUM_SIZE = b"crc_num", 17
_VARINT, _LENGTH = 0, 2  # wire types
# Keys of fields: field number * 8 + wire type.
_VALUE = 8 + _LENGTH
_NAME, _TENSOR = 8 + _LENGTH, 16 + _LENGTH
_DIMENSION, _DIMENSIONS, _DTYPE, _CONTENT = 8 + _VARINT, 8 + _LENGTH, 16 + _LENGTH, 24 + _LENGTH


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
    file = BinaryFile(path)
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


class _Cursor:
    """Reads wire-format fields from `offset` up to `end`, without the tensors' bytes."""

    def __init__(self, file: BinaryFile, offset: int, end: int) -> None:
        self.file, self.offset, self.end = file, offset, end

    def varint(self) -> int:
        value = 0
        for i, byte in enumerate(self.file.read(self.offset, min(10, self.end - self.offset))):
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                self.offset += i + 1
                return value
        raise WeightError("the file is truncated, or it is no MindSpore checkpoint.")

    def fields(self) -> Iterator[tuple[int, int]]:
        """(key, value or length); the caller moves `offset` past the bytes of a length."""
        while self.offset < self.end:
            key = self.varint()
            if key % 8 not in (_VARINT, _LENGTH) or key < 8:
                raise WeightError("it is no MindSpore checkpoint, or it is encrypted.")
            number = self.varint()
            if key % 8 == _LENGTH and self.offset + number > self.end:
                raise WeightError("the file is truncated, or it is no MindSpore checkpoint.")
            yield key, number

    def text(self, length: int) -> str:
        data = self.file.read(self.offset, length)
        self.offset += length
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise WeightError("it is no MindSpore checkpoint, or it is encrypted.") from error

    def inside(self, length: int) -> "_Cursor":
        inner = _Cursor(self.file, self.offset, self.offset + length)
        self.offset += length
        return inner


def _pieces(file: BinaryFile, end: int) -> Iterator[_Piece]:
    top = _Cursor(file, 0, end)
    for kind, length in top.fields():
        if kind != _VALUE:
            raise WeightError("it is no MindSpore checkpoint, or it is encrypted.")
        value, name, tensor = top.inside(length), "", None
        for inner, size in value.fields():
            if inner == _NAME:
                name = value.text(size)
            elif inner == _TENSOR:
                tensor = value.inside(size)
            else:
                raise WeightError(f"`{name}` is a hash-map parameter, which no network here has.")
        if tensor is None:
            raise WeightError("it is no MindSpore checkpoint: a value holds no tensor.")
        piece = _piece(name, tensor)
        if piece is not None:
            yield piece


def _piece(name: str, cursor: _Cursor) -> _Piece | None:
    """The tensor at the cursor; None for a string that was saved beside the weights."""
    shape: list[int] = []
    dtype_name, offset, nbytes = "", 0, 0
    for kind, number in cursor.fields():
        if kind == _DIMENSION:
            shape.append(number)
        elif kind == _DIMENSIONS:
            packed = cursor.inside(number)
            while packed.offset < packed.end:
                shape.append(packed.varint())
        elif kind == _DTYPE:
            dtype_name = cursor.text(number)
        elif kind == _CONTENT:
            offset, nbytes = cursor.offset, number
            cursor.offset += number
    if dtype_name == "str":
        return None
    if dtype_name not in dtypes.BY_MINDSPORE:
        raise WeightError(f"`{name}` has the unknown dtype {dtype_name!r}.")
    dims = () if shape == [0] and nbytes else tuple(shape)  # MindSpore's way to write a scalar
    return _Piece(name, Spec(dims, dtypes.BY_MINDSPORE[dtype_name].name), offset, nbytes)


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
