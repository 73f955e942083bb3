"""Weight files that are damaged or made to do harm, from a seed, and reading them within limits."""

import argparse
import collections
import datetime
import enum
import json
import os
import pathlib
import pickle
import random
import resource
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms import weights
from latte_ms.weights import WeightError, files, from_arrays

SUFFIXES = (".pt", ".safetensors", ".ckpt")
ARRAYS = {
    "model.a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "model.b": np.ones(3, np.int64),
    "ema.c": np.zeros((2, 2), np.float16),
}


class Harmful:
    """Runs a shell command when Python's own unpickler reads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Colour(enum.Enum):
    RED = 1


class Settings:
    """An object with attributes, slots of other objects among them."""

    def __init__(self) -> None:
        self.path = pathlib.Path("/a/b")
        self.colour = Colour.RED


def foreign_objects() -> dict[str, Any]:
    """What training scripts save beside their tensors."""
    return {
        "args": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("/data")),
        "loss": np.float64(0.5),
        "array": np.arange(3),
        "date": datetime.datetime(2024, 1, 2, 3, 4, 5),
        "colour": Colour.RED,
        "settings": Settings(),
        "table": collections.defaultdict(list, {"a": [1]}),
        "counts": collections.Counter("aab"),
        "complex": 1 + 2j,
        "names": frozenset({"a", "b"}),
        "grid": {(0, 1): "corner", Colour.RED: "red"},
        "bytes": bytearray(b"abc"),
    }


class TooLong(BaseException):
    """The time is over; no reader catches this."""


@contextmanager
def limited(seconds: int, memory: int) -> Iterator[None]:
    """Raise TooLong after `seconds`, and MemoryError for `memory` bytes more than now."""

    def stop(*_: object) -> None:
        raise TooLong(f"more than {seconds} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, before[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def read_all(path: Path) -> None:
    """Read, check and look up everything in a file."""
    for tensors in files.read_entries(path).values():
        tensors.verify()
        for name, spec in tensors.specs.items():
            assert tensors[name].shape == spec.shape


def verdict(path: Path) -> str:
    """The message of the WeightError of `read_all`; empty for a file that is read."""
    try:
        read_all(path)
    except WeightError as error:
        return str(error)
    return ""


def torch_archive(
    pickled: bytes, members: dict[str, bytes] | None = None, compression: int = 0
) -> bytes:
    """A zip as torch.save writes it; storages are 64 bytes long."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (members or {"data/0": bytes(64)}).items():
            archive.writestr(f"archive/{name}", data)
    return stream.getvalue()


def number(value: int) -> bytes:
    """An integer in a pickle."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def numbers(values: Any) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tensor(shape: Any, strides: Any, offset: int = 0, storage: str = "FloatStorage") -> bytes:
    """A tensor in a pickle, on the storage data/0."""
    identity = text("storage") + b"ctorch\n" + storage.encode() + b"\n" + text("0") + text("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + identity + number(16) + b"tQ" + number(offset)
        + numbers(shape) + numbers(strides) + b"\x89}tR"
    )  # fmt: skip


def state_dict(**tensors: bytes) -> bytes:
    """A pickle of tensors by name."""
    items = b"".join(text(name) + data for name, data in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def safetensors(header: Any, size: int = 16) -> bytes:
    """A file with a header, JSON or bytes as they are, and `size` bytes of tensors."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + bytes(size)


def varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def field(key: int, data: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    return varint(key * 8 + 2) + varint(len(data)) + data


def ckpt(name: bytes = b"a", dims: Any = (4,), dtype: bytes = b"Float32", size: int = 16) -> bytes:
    """One value of MindSpore's format."""
    fields = b"".join(b"\x08" + varint(n) for n in dims) + field(2, dtype) + field(3, bytes(size))
    return field(1, field(1, name) + field(2, fields))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, bytes replaced, removed, inserted or repeated, or the end cut off."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, kind = rng.randrange(len(result)), rng.randrange(6)
        if kind == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2 and len(result) > 100:
            del result[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            result[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            result[at:at] = result[at : at + rng.randrange(1, 65)]
        elif rng.random() < 0.3:
            del result[max(at, 50) :]
    return bytes(result)


def wholes(folder: Path, trace: Path) -> list[tuple[str, bytes]]:
    """(suffix, bytes) of files that are read, one of them beside a harmful object."""
    result = []
    for suffix in SUFFIXES:
        path = folder / f"whole{suffix}"
        weights.write(path, {"": from_arrays(ARRAYS)})
        result.append((suffix, path.read_bytes()))
    pickled = beside(foreign_objects() | {"x": Harmful(f"touch {trace}")})
    result.append((".pt", torch_archive(pickled)))
    result.append((".pt", torch_archive(pickled, None, zipfile.ZIP_DEFLATED)))
    return result


def beside(rest: Any) -> bytes:
    """A pickle of an entry `ema`, one tensor `a` of shape (4, 4), beside another object `rest`."""
    ema = text("ema") + state_dict(a=tensor((4, 4), (4, 1)))[2:-1]
    return b"\x80\x02}(" + ema + text("rest") + pickle.dumps(rest, 2)[2:-1] + b"u."


def _value(rng: random.Random) -> Any:
    """A value of any type of JSON."""
    return rng.choice(
        (None, True, 0, -1, 4, 2**31, 2**62, 2**64, 10**400, 1.5, "", "F32", "9", [], [4], {},
         {"a": 1}, [[4]], [0, 2**62], [1] * 40, [2**62] * 1000, "x" * 5000)
    )  # fmt: skip


def _safetensors(rng: random.Random) -> bytes:
    entry: dict[str, Any] = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header: dict[str, Any] = {"a": entry}
    for _ in range(rng.randrange(1, 3)):
        kind = rng.randrange(4)
        if kind < 2:
            entry[rng.choice(("dtype", "shape", "data_offsets", "more"))] = _value(rng)
        elif kind == 2:
            header[rng.choice(("a", "b", "__metadata__"))] = _value(rng)
        else:
            entry["data_offsets"] = [rng.choice((-1, 0, 4, 16, 2**63)) for _ in range(2)]
    return safetensors(header, rng.choice((0, 15, 16, 20)))


def _size(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 4, 16, 17, -1, 2**31, 2**32, 2**62, 2**64, 256**200))


def _torch(rng: random.Random) -> bytes:
    rank = rng.choice((0, 1, 2, 3, 33, 100))
    view = tensor(
        [_size(rng) for _ in range(rank)],
        [_size(rng) for _ in range(rng.choice((rank, rank, rank, 1)))],
        rng.choice((0, 0, 0, _size(rng))),
        rng.choice(("FloatStorage", "BoolStorage", "QInt8Storage", "ComplexFloatStorage")),
    )
    compression = rng.choice((0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return torch_archive(state_dict(a=view, b=tensor((4,), (1,))), None, compression)


def _opcodes(rng: random.Random) -> bytes:
    """A pickle of random opcodes, which doubles and nests containers."""
    parts = (
        b"(", b"}", b"]", b")", b"t", b"\x85", b"\x86", b"\x87", b"u", b"s", b"a", b"e", b"R", b"b",
        b"Q", b"N", b"\x88", b"K\x01", b"q\x01", b"h\x01", b"h\x01h\x01\x86q\x01", b"\x94", b"\x81",
        b"\x8f", b"\x90", b"\x91", b"0", b"1", b"2", b"\x92", b"\x93", b"X\x01\x00\x00\x00a",
        b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"ctorch\nSize\n",
        b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", number(256**300),
        b"I" + b"9" * 5000 + b"\n",
    )  # fmt: skip
    body = b"".join(rng.choice(parts) for _ in range(rng.choice((3, 10, 100, 1000))))
    return torch_archive(b"\x80\x02K\x01q\x01" + body + b".")


def _pickles(rng: random.Random) -> bytes:
    """A damaged pickle in a whole archive, whose checksums are right."""
    return torch_archive(damaged(beside(foreign_objects()), rng))


def _ckpt(rng: random.Random) -> bytes:
    dims = [abs(_size(rng)) % 2**70 for _ in range(rng.choice((0, 1, 2, 40, 5000)))]
    dtype = rng.choice((b"Float32", b"Bool", b"str", b"", b"\xff", b"Oct7"))
    return ckpt(b"a" * rng.choice((0, 1, 5000)), dims, dtype, rng.choice((0, 1, 16))) * 2


def hostile_files(count: int, seed: int, folder: Path, trace: Path) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of `count` files; code in them would make the file `trace`."""
    rng = random.Random(seed)
    whole = wholes(folder, trace)
    crafted: list[tuple[str, Callable[[random.Random], bytes]]]
    crafted = [(".safetensors", _safetensors), (".ckpt", _ckpt)]
    crafted += [(".pt", make) for make in (_torch, _opcodes, _pickles)]
    for _ in range(count):
        if rng.random() < 0.4:
            suffix, data = rng.choice(whole)
            yield suffix, damaged(data, rng)
        else:
            suffix, make = rng.choice(crafted)
            yield suffix, make(rng)
