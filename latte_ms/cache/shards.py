"""The files of a cache: safetensors whose metadata hold a checksum per entry.

An entry is one or more arrays that are read together, such as the mean and the deviation of a clip.
Array `part` of entry `e` has the name `part.e`. The metadata say `cache`, the identity of the index
that the file belongs to, `sha256.e`, the checksum of the bytes of the arrays of `e` in the order of
the entry's parts, and `broken.v` for a video that could not be read, with the reason.
"""

import hashlib
from collections.abc import Mapping, Sequence
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
Sizes = Sequence[range]  # allowed lengths of each axis


def write_shard(
    path: Path, identity: str, entries: Mapping[str, Entry], broken: Mapping[str, str]
) -> None:
    """Write a file, completely or not at all; see the module for its names."""
    arrays = {f"{part}.{name}": a for name, entry in entries.items() for part, a in entry.items()}
    metadata = {
        _CACHE: identity,
        **{f"{_DIGEST}{name}": _digest(entry) for name, entry in entries.items()},
        **{f"{_BROKEN}{name}": reason for name, reason in broken.items()},
    }
    write_safetensors(path, tensors.from_arrays(arrays), metadata=metadata)


def read_entry(path: Path, identity: str, name: str, parts: Sequence[str]) -> Entry:
    """One entry of a file.

    Raises WeightError, with the path, for a file of another cache, for bytes that are not as they
    were written, and for NaN and infinite values.
    """
    with located(path):
        try:
            with safe_open(path, "numpy", backend="pread") as file:
                metadata = file.metadata() or {}
                entry = {part: file.get_tensor(f"{part}.{name}") for part in parts}
        except Exception as error:  # the library raises several kinds
            raise WeightError(f"the file is missing or damaged ({one_line(error)}).") from error
        _check_identity(metadata, identity)
        if metadata.get(f"{_DIGEST}{name}") != _digest(entry):
            raise WeightError(f"it is damaged: entry {name} is not as its checksum records.")
        for part, array in entry.items():
            if count_non_finite(array):
                raise WeightError(f"`{part}.{name}` holds NaN or infinite values.")
    return entry


def check_shard(
    path: Path,
    identity: str,
    expected: Mapping[str, Mapping[str, Sizes]],
    dtype: str,
    content: bool,
    group: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Check that a file holds exactly the entries `expected`; returns its broken videos.

    Args:
        expected: entry -> part -> sizes.
        content: also read all entries and check them.
        group: entry -> the video whose entries are left out where it is broken.
    Raises WeightError, with the path.
    """
    stored = read_safetensors(path)
    with located(path):
        with safe_open(path, "numpy", backend="pread") as file:
            metadata: dict[str, str] = file.metadata() or {}
        _check_identity(metadata, identity)
        videos = set((group or {}).values())
        broken = {
            key.removeprefix(_BROKEN): reason
            for key, reason in metadata.items()
            if key.startswith(_BROKEN) and key.removeprefix(_BROKEN) in videos
        }
        present = {
            name: parts
            for name, parts in expected.items()
            if group is None or group[name] not in broken
        }
        _check_specs(stored.specs, present, dtype)
    if content:
        for name, parts in present.items():
            read_entry(path, identity, name, list(parts))
    return broken


def _check_specs(
    specs: Mapping[str, tensors.Spec], expected: Mapping[str, Mapping[str, Sizes]], dtype: str
) -> None:
    names = {
        f"{part}.{name}": sizes for name, parts in expected.items() for part, sizes in parts.items()
    }
    if names.keys() != specs.keys():
        differing = sorted(names.keys() ^ specs.keys())
        raise WeightError(f"it must hold {len(names)} arrays; {shown(differing)} differ.")
    for name, sizes in names.items():
        spec = specs[name]
        fits = len(spec.shape) == len(sizes) and all(
            length in allowed for length, allowed in zip(spec.shape, sizes, strict=True)
        )
        if not fits or spec.dtype != dtype:
            wanted = ", ".join(
                str(r.start) if len(r) == 1 else f"{r.start} to {r.stop - 1}" for r in sizes
            )
            raise WeightError(
                f"`{name}` must be ({wanted}) of {dtype}, got {shown(spec.shape)} of {spec.dtype}."
            )


def exactly(*shape: int) -> Sizes:
    """Sizes of one shape."""
    return [range(length, length + 1) for length in shape]


def _check_identity(metadata: Mapping[str, Any], identity: str) -> None:
    if metadata.get(_CACHE) != identity:
        raise WeightError("it belongs to another cache than the index beside it.")


def _digest(entry: Entry) -> str:
    digest = hashlib.sha256()
    for array in entry.values():
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
