"""The files of a cache: safetensors whose metadata hold a checksum per entry.

An entry is one or more arrays that are read together: the mean and the standard deviation of a
clip, or the rows of a caption.
Array `part` of entry `e` has the name `part.e`. The metadata say `cache`, the `cache_id` of the
index that the file belongs to, `sha256.e`, the checksum of the bytes of the arrays of `e` in the
order of the entry's parts, and `broken.v` for a video that could not be read, with the reason.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from latte_ms.messages import one_line, shown
from latte_ms.weights import tensors
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.finite import count_non_finite
from latte_ms.weights.formats.safetensors import read_safetensors, write_safetensors

_CACHE, _DIGEST, _BROKEN = "cache", "sha256.", "broken."

Entry = dict[str, np.ndarray]


def write_shard(
    path: Path, cache_id: str, entries: Mapping[str, Entry], broken: Mapping[str, str]
) -> None:
    """Write a file, completely or not at all; see the module for its names."""
    arrays = {f"{part}.{name}": a for name, entry in entries.items() for part, a in entry.items()}
    metadata = {
        _CACHE: cache_id,
        **{f"{_DIGEST}{name}": _digest(entry) for name, entry in entries.items()},
        **{f"{_BROKEN}{name}": reason for name, reason in broken.items()},
    }
    write_safetensors(path, tensors.from_arrays(arrays), metadata=metadata)


def read_rows(path: Path, cache_id: str, name: str, parts: Sequence[str], rows: slice) -> Entry:
    """Some rows of the arrays of an entry, in a file that `check_shard` has checked.

    Raises WeightError, with the path, for a file that is missing, damaged or of another cache.
    """
    with _opened(path, cache_id) as (file, _):
        return _entry(file, name, parts, rows)


class CheckOnce:
    """Checks all bytes of a file before its first use, whichever thread that is in.

    Args:
        check: (number of the file, True); raises ValueError for one that is not as it was written.
        count: the number of files.
    """

    def __init__(self, check: Callable[[int, bool], object], count: int) -> None:
        self._check, self._checked = check, [False] * count
        self._locks = [threading.Lock() for _ in range(count)]

    def __call__(self, shard: int) -> None:
        if self._checked[shard]:
            return
        with self._locks[shard]:
            if not self._checked[shard]:
                self._check(shard, True)
                self._checked[shard] = True


def check_shard(
    path: Path,
    cache_id: str,
    owners: Mapping[str, str],
    parts: Sequence[str],
    fits: Callable[[tensors.Spec], bool],
    rule: str,
    check_bytes: bool,
) -> dict[str, str]:
    """Check that a file holds exactly the entries of its videos; returns the broken videos.

    Args:
        owners: entry -> its video; the entries of a broken video are left out.
        parts: the arrays of each entry.
        fits, rule: whether an array has the right shape and dtype, and which those are, in words.
        check_bytes: also read all entries, and check their checksums and that they are finite.
    Raises WeightError, with the path.
    """
    stored = read_safetensors(path)
    with _opened(path, cache_id) as (file, metadata):
        videos = set(owners.values())
        broken = {
            key.removeprefix(_BROKEN): reason
            for key, reason in metadata.items()
            if key.startswith(_BROKEN) and key.removeprefix(_BROKEN) in videos
        }
        present = [name for name, video in owners.items() if video not in broken]
        _check_specs(stored.specs, {f"{p}.{name}" for name in present for p in parts}, fits, rule)
        for name in present if check_bytes else ():
            entry = _entry(file, name, parts, slice(None))
            if metadata.get(f"{_DIGEST}{name}") != _digest(entry):
                raise WeightError(f"it is damaged: entry {name} is not as its checksum records.")
            for part, array in entry.items():
                if count_non_finite(array):
                    raise WeightError(f"`{part}.{name}` holds NaN or infinite values.")
    return broken


@contextmanager
def _opened(path: Path, cache_id: str) -> Iterator[tuple[Any, Mapping[str, str]]]:
    """The cache's file and its metadata. Raises WeightError with the path."""
    with located(path):
        try:
            opened = safe_open(path, "numpy", backend="pread")  # no mapping: a file may shrink
        except Exception as error:  # the library raises several kinds
            raise WeightError(f"the file is missing or damaged ({one_line(error)}).") from error
        with opened as file:
            metadata = file.metadata() or {}
            if metadata.get(_CACHE) != cache_id:
                raise WeightError("it belongs to another cache than the index beside it.")
            yield file, metadata


def _entry(file: Any, name: str, parts: Sequence[str], rows: slice) -> Entry:
    try:
        return {part: file.get_slice(f"{part}.{name}")[rows] for part in parts}
    except Exception as error:  # the library raises several kinds
        raise WeightError(f"the file is damaged ({one_line(error)}).") from error


def _check_specs(
    specs: Mapping[str, tensors.Spec],
    expected: Set[str],
    fits: Callable[[tensors.Spec], bool],
    rule: str,
) -> None:
    if expected != specs.keys():
        differing = sorted(expected ^ specs.keys())
        raise WeightError(f"it must hold {len(expected)} arrays; {shown(differing)} differ.")
    for name, spec in specs.items():
        if not fits(spec):
            raise WeightError(f"`{name}` must be {rule}, got {shown(spec.shape)} of {spec.dtype}.")


def _digest(entry: Entry) -> str:
    digest = hashlib.sha256()
    for array in entry.values():
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
