"""Prepared text embeddings: one safetensors file with an array per caption or prompt.

For training an array has the name of its video: the path relative to the folder of videos, with
forward slashes and the suffix, such as `surfing/v_01.avi`. For sampling names are free. An array
named `unconditional` stands for "no caption".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from latte_ms.messages import shown

UNCONDITIONAL = "unconditional"
DTYPES = ("F16", "F32")  # as safetensors names float16 and float32


class TextEmbeddings:
    """The arrays of `path`, read from the file one by one when they are needed.

    Args:
        path: a safetensors file of float16 or float32 arrays.
        shape: of every array, (number of tokens, size of an embedding).

    Attributes:
        names: of all arrays but `unconditional`.
        unconditional: array of `shape` in float32, or None if the file has none.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: it is not a safetensors file, or an array has another shape or dtype.
    """

    def __init__(self, path: str | Path, shape: tuple[int, int]) -> None:
        self.path, self.shape = Path(path).expanduser(), shape
        if not self.path.is_file():
            raise FileNotFoundError(f"`text_embeddings` is not a file: {path}.")
        try:
            self._file = _open(self.path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} is not a safetensors file: {error}.") from error
        stored: list[str] = list(self._file.keys())
        for name in stored:
            self._check(name)
        self.names = tuple(name for name in stored if name != UNCONDITIONAL)
        self.unconditional = self._read(UNCONDITIONAL) if UNCONDITIONAL in stored else None
        self._known = frozenset(self.names)

    def __getitem__(self, name: str) -> np.ndarray:
        """The embedding of this name: (tokens, size) float32. Raises KeyError without one."""
        if name not in self._known:
            raise KeyError(f"{self.path} holds no text embedding of {shown(name)}.")
        return self._read(name)

    def check_names(self, names: Sequence[str], argument: str) -> None:
        """Raise ValueError, with the first ones, if some of `names` (of `argument`) are missing."""
        missing = [name for name in names if name not in self._known]
        if missing:
            raise ValueError(
                f"Each name of `{argument}` must have a text embedding in {self.path}; "
                f"{len(missing)} of {len(names)} have none: {', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else '.'}"
            )

    def _check(self, name: str) -> None:
        part = self._file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        if shape != self.shape:
            raise ValueError(f"{self.path}: {shown(name)} must be {self.shape}, got {shape}.")
        if dtype not in DTYPES:
            raise ValueError(f"{self.path}: {shown(name)} must be float16 or float32, got {dtype}.")

    def _read(self, name: str) -> np.ndarray:
        return np.asarray(self._file.get_tensor(name), np.float32)


def _open(path: Path) -> Any:
    return safe_open(path, "numpy")
