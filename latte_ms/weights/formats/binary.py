"""A weight file that is read at byte offsets."""

import os
import weakref
import zlib
from pathlib import Path

import numpy as np

from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError

_CHUNK = 1 << 24
_LFS_POINTER = b"version https://git-lfs"


class BinaryFile:
    """A file that stays open for reading until its last user is gone.

    Raises WeightError where `path` is not a file, cannot be opened, or is a git-lfs pointer.
    """

    def __init__(self, path: Path) -> None:
        if not os.path.isfile(path):  # opening a FIFO would wait for a writer
            raise WeightError(f"`path` is not a file: {path}.")
        try:
            self.stream = path.open("rb")
        except OSError as error:
            raise WeightError(f"{path} cannot be opened: {error.strerror}.") from error
        weakref.finalize(self, self.stream.close)
        self.size = os.fstat(self.stream.fileno()).st_size
        if self.read(0, len(_LFS_POINTER)) == _LFS_POINTER:
            raise WeightError(f"{path} is a git-lfs pointer, not the weights; run: git lfs pull.")

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes; fewer only at the end of the file."""
        if not 0 <= offset <= self.size:
            raise WeightError("the file is damaged: it refers to bytes outside of itself.")
        try:
            return os.pread(self.stream.fileno(), min(count, self.size - offset), offset)
        except OSError as error:
            raise WeightError(f"the file cannot be read: {error.strerror}.") from error

    def read_array(self, offset: int, count: int, dtype: str) -> np.ndarray:
        """`count` elements of a dtype of `dtypes.TABLE`, as an array of one dimension."""
        if offset < 0 or offset + count * dtypes.BY_NAME[dtype].itemsize > self.size:
            raise WeightError("the file is truncated: it ends within a tensor.")
        try:
            array = np.empty(count, dtypes.numpy_dtype(dtype))
            self._fill(array.view(np.uint8).data, offset)
        except (MemoryError, OSError) as error:
            raise WeightError(f"a tensor of {count} elements cannot be read: {error}.") from error
        return array

    def _fill(self, view: memoryview, offset: int) -> None:
        """All bytes of `view` from the file."""
        done = 0
        while done < len(view):
            read = os.preadv(self.stream.fileno(), [view[done : done + _CHUNK]], offset + done)
            if not read:
                raise WeightError("the file is truncated: it ends within a tensor.")
            done += read

    def crc32(self, offset: int, count: int) -> int:
        """CRC-32 of `count` bytes."""
        value = 0
        for start in range(offset, offset + count, _CHUNK):
            value = zlib.crc32(self.read(start, min(_CHUNK, offset + count - start)), value)
        return value
