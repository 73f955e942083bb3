"""Reading `.pt` and `.pth` files, the zip archives that `torch.save` writes, without torch."""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latte_ms.weights import dtypes
from latte_ms.weights.entries import split_entries
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.formats.pickle_reader import StoredTensor, read_pickle
from latte_ms.weights.tensors import Spec, Tensors

ZIP_MAGIC = b"PK\x03\x04"
# torch before 1.6 wrote a bare pickle that begins with this number.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LOCAL_HEADER = 30  # bytes before a member's name
# What zipfile raises for a damaged archive; RuntimeError for an encrypted one.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    UnicodeDecodeError,
)
_LARGEST_PICKLE = 1 << 28  # names and shapes of a million tensors need less


def read_torch(path: Path) -> dict[str, Tensors]:
    """Entries of the file, each read tensor by tensor.

    Raises WeightError for a file that is truncated, legacy, harmful or no checkpoint.
    """
    with located(path):
        archive = _Archive(path)
        entries = split_entries(read_pickle(archive.pickle()), StoredTensor)
        return {entry: _lazy(archive, tensors) for entry, tensors in entries.items()}


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


class _Archive:
    """The zip archive: one pickle, and one member data/<key> per storage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = BinaryFile(path)
        self._check_magic()
        try:
            self._zip = zipfile.ZipFile(self._file.stream)
        except _ZIP_ERRORS as error:
            raise WeightError(
                "the file is truncated or damaged: the zip directory at its end is missing."
            ) from error
        pickles = [n for n in self._zip.namelist() if n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightError("the zip archive holds no data.pkl, so torch.save did not write it.")
        self._root = pickles[0][: -len("data.pkl")]
        order = self._root + "byteorder"
        if order in self._zip.namelist() and self._read(self._zip.getinfo(order)) != b"little":
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
        info = self._zip.getinfo(self._root + "data.pkl")
        if info.file_size > _LARGEST_PICKLE:
            raise WeightError(
                f"its data.pkl has {info.file_size} bytes, more than names and shapes need."
            )
        return self._read(info)

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
        try:
            if info.compress_type != zipfile.ZIP_STORED:
                return self._zip.read(info)
            self._check_crc(info)
            return self._file.read(self._start(info), info.file_size)
        except _ZIP_ERRORS as error:
            raise WeightError(f"the file is damaged ({error}).") from error

    def _member(self, key: str) -> zipfile.ZipInfo:
        try:
            return self._zip.getinfo(f"{self._root}data/{key}")
        except KeyError:
            raise WeightError(f"the file is damaged: its storage data/{key} is missing.") from None

    def _start(self, info: zipfile.ZipInfo) -> int:
        header = self._file.read(info.header_offset, _LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or not header.startswith(ZIP_MAGIC):
            raise WeightError("the file is damaged: a member is not where the directory says.")
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        return info.header_offset + _LOCAL_HEADER + name_length + extra_length
