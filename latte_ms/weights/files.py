"""Weight files of every format: the suffix chooses, and a folder holds safetensors."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from latte_ms.messages import shown
from latte_ms.weights.entries import UNNAMED, by_prefix, choose
from latte_ms.weights.errors import WeightError, located, quoted
from latte_ms.weights.file_names import INDEX_SUFFIX
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.formats.folder import (
    folder_files,
    read_folder_file,
    read_index,
    write_folder,
)
from latte_ms.weights.formats.mindspore import read_mindspore, write_mindspore
from latte_ms.weights.formats.safetensors import read_safetensors, write_safetensors
from latte_ms.weights.formats.torch_reader import ZIP_MAGIC, read_torch
from latte_ms.weights.formats.torch_writer import write_torch
from latte_ms.weights.tensors import Naming, Progress, Tensors

Write = Callable[[Path, Mapping[str, Tensors], Progress], None]


class Format(NamedTuple):
    """How the entries of one file are read and written, and whose names they have."""

    read: Callable[[Path], dict[str, Tensors]]
    write: Write
    naming: Naming = "disk"


def read(path: str | Path, entry: str | None = None, variant: str | None = None) -> Tensors:
    """Tensors of one entry of a file or folder, each read when it is looked up.

    Args:
        path: .pt, .pth, .bin (torch), .safetensors, .ckpt (MindSpore, or PyTorch Lightning), the
            .index.json of shards, or a folder of safetensors.
        entry: `ema` or `model` in files that hold both; None where there is only one.
        variant: of a folder's files, such as "fp16".
    Returns:
        Mapping name -> array. Names are the reference's; those of MindSpore's .ckpt are the
        network's own (`.naming` tells which). Wrapper prefixes are removed.
    Raises:
        WeightError: the file is unknown, damaged or harmful, or lacks the entry.
    """
    return read_entry(path, entry, variant)[1]


def read_entry(
    path: str | Path, entry: str | None, variant: str | None = None
) -> tuple[str, Tensors]:
    """The entry that `read` takes, and its name; no other file of a folder is opened."""
    path = Path(path)
    if os.path.isdir(path):
        files = folder_files(path, variant)
        with located(path):
            name = choose(files, entry)
        return name, read_folder_file(files[name])
    entries = read_entries(path, variant)
    with located(path):
        name = choose(entries, entry)
    return name, entries[name]


def read_entries(path: str | Path, variant: str | None = None) -> dict[str, Tensors]:
    """All entries of a file or folder; see `read`."""
    path = Path(path)
    if not os.path.exists(path):
        raise WeightError(f"`path` does not exist: {path}.")
    if os.path.isdir(path):
        return {e: read_folder_file(file) for e, file in folder_files(path, variant).items()}
    if variant is not None:
        raise WeightError(
            f"`variant` (={shown(variant)}) is for folders, and {path} is not a folder."
        )
    with located(path):
        if path.suffix == INDEX_SUFFIX:
            return _split(read_index(path))
        return _format(path, ".safetensors.index" + INDEX_SUFFIX).read(path)


def write(
    path: str | Path,
    entries: Mapping[str, Tensors],
    shard_size: int | None = None,
    progress: Progress = None,
    variant: str | None = None,
) -> None:
    """Write entries under `path`, whose suffix chooses the format; no suffix means a folder.

    A file appears under its name when it is complete. `shard_size` (bytes) and `variant` are for
    folders; `progress` is called with the number of bytes after each tensor.
    """
    path = Path(path)
    if shard_size is not None and shard_size < 1:
        raise WeightError(f"`shard_size` must be at least 1 byte, got {shard_size}.")
    for argument, value in (("shard_size", shard_size), ("variant", variant)):
        if value is not None and path.suffix and not path.is_dir():
            raise WeightError(f"`{argument}` is for folders, and {path} has a suffix.")
    if path.is_dir() or not path.suffix:
        write_folder(path, entries, shard_size, progress, variant)
    else:
        _format(path).write(path, entries, progress)


def naming_of(path: str | Path) -> Naming:
    """Whose names a file written under `path` holds."""
    suffix = Path(path).suffix
    return FORMATS[suffix].naming if suffix in FORMATS else "disk"


def _format(path: Path, *others: str) -> Format:
    """The format of a file; `others` are further suffixes for the message."""
    if path.suffix not in FORMATS:
        known = quoted([*FORMATS, *others])
        raise WeightError(
            f"`path` must be a folder or have one of the suffixes {known}, got {path}."
        )
    return FORMATS[path.suffix]


def _split(tensors: Tensors) -> dict[str, Tensors]:
    """Entries of a file of one state dict, told by prefixes."""
    groups = by_prefix({name: name for name in tensors})
    return {entry: tensors.renamed(names) for entry, names in groups.items()}


def _read_ckpt(path: Path) -> dict[str, Tensors]:
    """PyTorch Lightning's files have the suffix of MindSpore's."""
    is_torch = BinaryFile(path).read(0, len(ZIP_MAGIC)) == ZIP_MAGIC
    return read_torch(path) if is_torch else {UNNAMED: read_mindspore(path)}


def _one_entry(write_tensors: Callable[[Path, Tensors, Progress], None]) -> Write:
    """A writer of entries for a format that has room for one."""

    def write_entries(path: Path, entries: Mapping[str, Tensors], progress: Progress) -> None:
        if len(entries) != 1:
            raise WeightError(
                f"{path} can hold one entry, not {quoted(entries)}; name a .pt or a folder."
            )
        write_tensors(path, next(iter(entries.values())), progress)

    return write_entries


_TORCH = Format(read_torch, write_torch)
FORMATS = {
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".bin": _TORCH,
    ".safetensors": Format(
        lambda path: _split(read_safetensors(path)), _one_entry(write_safetensors)
    ),
    ".ckpt": Format(_read_ckpt, _one_entry(write_mindspore), "memory"),
}
