"""Writing `.pt` files that `torch.load(weights_only=True)` reads, without torch.

The archive is a zip with the members archive/data.pkl (a pickle of protocol 2), archive/version,
archive/byteorder and one archive/data/<i> per tensor, uncompressed and aligned.
"""

import struct
import zipfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from latte_ms.atomic import atomic_file
from latte_ms.weights import dtypes
from latte_ms.weights.entries import UNNAMED
from latte_ms.weights.errors import WeightError
from latte_ms.weights.tensors import Progress, Spec, Tensors

_ROOT = "archive/"
_ALIGNMENT = 64  # bytes, as torch's own, so that it can map tensors from the file
_DATE = (1980, 1, 1, 0, 0, 0)  # the same weights make the same file
_WRITES = 1 << 26  # bytes handed to the zip at once


def write_torch(path: Path, entries: Mapping[str, Tensors], progress: Progress = None) -> None:
    """Write `{entry: {name: tensor}}`, or a bare state dict for the only entry `UNNAMED`.

    `progress` is called with the number of bytes after each tensor.
    """
    if UNNAMED in entries and len(entries) > 1:
        raise WeightError(f"{path}: an unnamed entry must be the only one of a .pt file.")
    with atomic_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _write_member(archive, "data.pkl", _pickle(entries))
        _write_member(archive, "byteorder", b"little")
        streams = (tensors.stream(progress=progress) for tensors in entries.values())
        for i, (_, data) in enumerate(chain.from_iterable(streams)):
            _write_member(archive, f"data/{i}", data)
        _write_member(archive, "version", b"3\n")


def _write_member(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(_ROOT + name, _DATE)
    info.file_size = len(data)
    large = len(data) * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule
    header = 30 + len(info.filename) + (20 if large else 0)
    assert archive.fp is not None
    start = archive.fp.tell() + header + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as member:
        for begin in range(0, len(data), _WRITES):
            member.write(data[begin : begin + _WRITES])


def _pickle(entries: Mapping[str, Tensors]) -> bytes:
    """{entry: state dict}, or the state dict of `UNNAMED`; storages are numbered in this order."""
    items, first = b"", 0
    for entry, tensors in entries.items():
        state = _state_dict(tensors.specs, first)
        items += state if entry == UNNAMED else _text(entry) + state
        first += len(tensors)
    return b"\x80\x02" + (items if UNNAMED in entries else b"}(" + items + b"u") + b"."


def _state_dict(specs: Mapping[str, Spec], first: int) -> bytes:
    """An OrderedDict of tensors whose storages are numbered from `first`."""
    items = [_text(name) + _tensor(spec, first + i) for i, (name, spec) in enumerate(specs.items())]
    return _ORDERED_DICT + b"(" + b"".join(items) + b"u"


def _tensor(spec: Spec, index: int) -> bytes:
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)."""
    storage_class = dtypes.BY_NAME[spec.dtype].storage
    if not storage_class:
        raise WeightError(f"torch has no storage class for {spec.dtype}; use a signed dtype.")
    strides, step = [], 1
    for n in reversed(spec.shape):
        strides.append(step)
        step *= max(n, 1)
    identity = [
        _text("storage"),
        _global("torch", storage_class),
        _text(str(index)),
        _text("cpu"),
        _integer(spec.size),
    ]
    storage = _tuple(identity) + b"Q"
    shape = _tuple([_integer(n) for n in spec.shape])
    stride = _tuple([_integer(n) for n in reversed(strides)])
    arguments = [storage, _integer(0), shape, stride, b"\x89", _ORDERED_DICT]
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + b"R"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tuple(items: list[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


_ORDERED_DICT = _global("collections", "OrderedDict") + b")R"
