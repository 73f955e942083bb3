"""Reading `.pt` and `.pth` files, zip archives of torch or TorchScript, without torch."""

import io
import logging
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.messages import one_line
from latte_ms.weights import dtypes
from latte_ms.weights.entries import split_entries
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.formats import limits
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.formats.pickle_reader import (
    Foreign,
    ScriptedModule,
    StoredTensor,
    read_pickle,
    refusal,
)
from latte_ms.weights.tensors import Spec, Tensors

ZIP_MAGIC = b"PK\x03\x04"
# torch before 1.6 wrote a bare pickle that begins with this number.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LOCAL_HEADER = 30  # bytes before a member's name
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # a bit of a member's flags
_MAX_KEYS = 1 << 20  # of the dictionaries of all entries
_MAX_DEPTH = 64  # of modules in modules
_SHOWN = 8  # objects in a message

logger = logging.getLogger(__name__)


def read_torch(path: Path) -> dict[str, Tensors]:
    """Entries of the file, each read tensor by tensor.

    Objects other than tensors whose classes are not known here are left out, and named in the log.
    Raises WeightError for a file that is truncated, legacy, harmful or no checkpoint.
    """
    with located(path):
        archive = _Archive(path)
        root = read_pickle(archive.pickle())
        if isinstance(root, ScriptedModule):
            root = _state_dict(root)
        entries = _entries(root, path)
        archive.check_total([t for tensors in entries.values() for t in tensors.values()])
        return {entry: _lazy(archive, tensors) for entry, tensors in entries.items()}


def _entries(root: Any, path: Path) -> dict[str, dict[str, StoredTensor]]:
    """The entries of an unpickled file, without what is not a tensor."""
    foreign = _foreign(root) if isinstance(root, Mapping) else []
    try:
        entries = split_entries(root, StoredTensor)
    except WeightError as error:
        reason = f" {refusal(foreign[0][1])}" if foreign else ""
        raise WeightError(f"{error}{reason}") from error
    if foreign:
        names = [
            f"{one_line('.'.join(map(str, keys)), 80)} ({value.name})"
            for keys, value in foreign[:_SHOWN]
        ]
        rest = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        logger.info("%s: objects that are not read: %s%s.", path, ", ".join(names), rest)
    return entries


def _state_dict(module: ScriptedModule) -> dict[str, StoredTensor]:
    """The tensors of a scripted module and its submodules, under their dotted names."""
    found: dict[str, StoredTensor] = {}
    left, waiting = _MAX_KEYS, [("", module, 0)]
    while waiting:
        prefix, current, depth = waiting.pop()
        left -= 1 + len(current.attributes)  # one module may be named again and again
        if left < 0 or depth > _MAX_DEPTH:
            raise WeightError(f"its modules hold each other, or more than {_MAX_KEYS} attributes.")
        for key, value in current.attributes.items():
            name = f"{prefix}{key}"
            if isinstance(value, StoredTensor):
                found[name] = value
            elif isinstance(value, ScriptedModule):
                waiting.append((f"{name}.", value, depth + 1))
    return found


def _foreign(root: Mapping[Any, Any]) -> list[tuple[tuple[Any, ...], Foreign]]:
    """Objects of unknown classes, each with the keys that lead to it, at most two."""
    sections = {key: value for key, value in root.items() if isinstance(value, Mapping)}
    if len(root) + sum(len(section) for section in sections.values()) > _MAX_KEYS:
        raise WeightError(f"its dictionaries have more than {_MAX_KEYS} keys.")
    found: list[tuple[tuple[Any, ...], Foreign]]
    found = [((key,), value) for key, value in root.items() if isinstance(value, Foreign)]
    for key, section in sections.items():
        found += [((key, k), value) for k, value in section.items() if isinstance(value, Foreign)]
    return found


def _lazy(archive: "_Archive", tensors: Mapping[str, StoredTensor]) -> Tensors:
    for name, tensor in tensors.items():
        archive.check(name, tensor)
    specs = {name: Spec(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    keys = sorted({tensor.storage.key for tensor in tensors.values()})
    return Tensors(
        specs,
        lambda name: archive.array(tensors[name]),
        verify=lambda: archive.verify(keys),
        path=archive.path,
    )


class _ZipStream(io.FileIO):
    """The open file for zipfile, which would read a directory of any size into memory."""

    at_directory = True  # until zipfile has read it

    def read(self, size: int | None = -1) -> bytes:
        if self.at_directory:
            limits.check_header(size or 0)
        return super().read(size) or b""


class _Archive:
    """The zip archive: one pickle, and one member data/<key> per storage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = BinaryFile(path)
        self._check_magic()
        stream = _ZipStream(self._file.stream.fileno(), closefd=False)
        try:
            self._zip = zipfile.ZipFile(stream)
            stream.at_directory = False
        except WeightError:
            raise
        except Exception as error:  # damage raises exceptions of many kinds in zipfile
            raise WeightError(
                "the file is truncated or damaged: the zip directory at its end is missing."
            ) from error
        members = self._zip.namelist()
        if len(set(members)) < len(members):
            raise WeightError("the file is damaged: its archive has a member twice.")
        pickles = [n for n in members if n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightError("the zip archive holds no data.pkl, so torch.save did not write it.")
        self._root = pickles[0][: -len("data.pkl")]
        order = self._root + "byteorder"
        if order in members and self._small(order) != b"little":
            raise WeightError("it was written on a big-endian machine, which is not supported.")

    def _check_magic(self) -> None:
        start = self._file.read(0, len(_LEGACY_MAGIC))
        if start.startswith(ZIP_MAGIC):
            return
        if start == _LEGACY_MAGIC:
            raise WeightError(
                "it is in the legacy format of torch before 1.6. Re-save it in torch: "
                "torch.save(torch.load(path, map_location='cpu'), new_path)."
            )
        raise WeightError(f"it is not a zip archive of torch.save: it begins with {start[:8]!r}.")

    def pickle(self) -> bytes:
        return self._small(self._root + "data.pkl")

    def _small(self, name: str) -> bytes:
        """A member other than a storage."""
        info = self._info(name)
        limits.check_header(info.file_size)
        return self._read(info)

    def check_total(self, tensors: list[StoredTensor]) -> None:
        """Raise WeightError if reading all tensors would take far more bytes than the file has."""
        limits.check_count(tensors)
        total = sum(self._member(key).file_size for key in {t.storage.key for t in tensors})
        for tensor in tensors:
            info = self._member(tensor.storage.key)
            spec = Spec(tensor.shape, tensor.dtype)
            total += spec.nbytes + max(tensor.span - spec.size, 0) * spec.itemsize
            if info.compress_type != zipfile.ZIP_STORED:  # all of it is unpacked for each tensor
                total += info.file_size
        limits.check_total(total, self._file.size)

    def check(self, name: str, tensor: StoredTensor) -> None:
        """Raise WeightError unless the storage exists and the view stays inside it."""
        storage, itemsize = tensor.storage, dtypes.BY_NAME[tensor.dtype].itemsize
        info = self._member(storage.key)
        if info.compress_type == zipfile.ZIP_STORED and (
            self._start(info) + info.file_size > self._file.size
        ):
            raise WeightError(f"the file is truncated within `{name}`.")
        if (tensor.offset + tensor.span) * itemsize > info.file_size and tensor.span:
            raise WeightError(
                f"`{name}` reaches beyond the end of its storage; the file is damaged."
            )

    def array(self, tensor: StoredTensor) -> np.ndarray:
        """The view as an array of its own, row-major."""
        if tensor.span == 0:
            return np.empty(tensor.shape, dtypes.numpy_dtype(tensor.dtype))
        flat = self._elements(tensor)
        strides = [stride * flat.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides)
        return view if view.flags.c_contiguous else view.copy()

    def _elements(self, tensor: StoredTensor) -> np.ndarray:
        """The span of the view in its storage."""
        info = self._member(tensor.storage.key)
        begin = tensor.offset * dtypes.BY_NAME[tensor.dtype].itemsize
        if info.compress_type == zipfile.ZIP_STORED:
            return self._file.read_array(self._start(info) + begin, tensor.span, tensor.dtype)
        data = self._read(info)  # torch never compresses, but zip tools do
        dtype = dtypes.numpy_dtype(tensor.dtype)
        return np.frombuffer(data, dtype, tensor.span, begin).copy()

    def verify(self, keys: list[str]) -> None:
        """Compare the CRC-32 of every storage with the one that the archive holds."""
        for key in keys:
            info = self._member(key)
            if info.compress_type == zipfile.ZIP_STORED:
                self._check_crc(info)
            else:
                self._read(info)

    def _check_crc(self, info: zipfile.ZipInfo) -> None:
        # torch.serialization.set_crc32_options(False) leaves zeros.
        if info.CRC not in (0, self._file.crc32(self._start(info), info.file_size)):
            raise WeightError(f"the file is damaged: {info.filename} has a wrong CRC-32.")

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        if info.compress_type == zipfile.ZIP_STORED:
            self._check_crc(info)
            return self._file.read(self._start(info), info.file_size)
        try:
            with self._zip.open(info) as member:
                data = member.read(info.file_size)  # without a size it unpacks whatever comes
        except Exception as error:  # damage raises exceptions of many kinds in zipfile
            raise WeightError(f"the file is damaged ({one_line(error)}).") from error
        if len(data) < info.file_size:
            raise WeightError(f"the file is damaged: {info.filename} ends too early.")
        return data

    def _member(self, key: str) -> zipfile.ZipInfo:
        """The member of a storage."""
        try:
            return self._info(f"{self._root}data/{key}")
        except KeyError:
            raise WeightError(
                f"the file is damaged: its storage data/{one_line(key, 80)} is missing."
            ) from None

    def _info(self, name: str) -> zipfile.ZipInfo:
        """A member that is neither encrypted nor packed by a method that torch.load cannot read."""
        info = self._zip.getinfo(name)
        if info.compress_type not in _COMPRESSIONS or info.flag_bits & _ENCRYPTED:
            raise WeightError(f"{name} is encrypted, or packed by a method other than deflate.")
        return info

    def _start(self, info: zipfile.ZipInfo) -> int:
        header = self._file.read(info.header_offset, _LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or not header.startswith(ZIP_MAGIC):
            raise WeightError("the file is damaged: a member is not where the directory says.")
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        return info.header_offset + _LOCAL_HEADER + name_length + extra_length
