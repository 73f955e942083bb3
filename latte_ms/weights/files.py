"""Weight files of every format: the suffix chooses, and a folder holds safetensors."""

from collections.abc import Callable, Mapping
from pathlib import Path

from latte_ms.weights.binary_file import BinaryFile
from latte_ms.weights.entries import UNNAMED, by_prefix, choose
from latte_ms.weights.errors import WeightError, listing, located
from latte_ms.weights.folder import (
    INDEX_SUFFIX,
    folder_files,
    read_folder_file,
    read_index,
    write_folder,
)
from latte_ms.weights.mindspore_file import read_mindspore, write_mindspore
from latte_ms.weights.safetensors_file import read_safetensors, write_safetensors
from latte_ms.weights.tensors import Naming, Tensors
from latte_ms.weights.torch_file import ZIP_MAGIC, read_torch
from latte_ms.weights.torch_writer import write_torch

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_SAFETENSORS, _MINDSPORE = ".safetensors", ".ckpt"


def read(path: str | Path, entry: str | None = None, variant: str | None = None) -> Tensors:
    """Tensors of one entry of a file or folder, each read when it is looked up.

    Args:
        path: .pt, .pth, .bin (torch), .safetensors, .safetensors.index.json, .ckpt (MindSpore, or
            PyTorch Lightning), or a folder of safetensors.
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
    """The entry that `read` takes, and its name; of a folder, no other file is looked at."""
    path = Path(path)
    folder = folder_files(path, variant) if path.is_dir() else None
    entries = read_entries(path, variant) if folder is None else {}
    try:
        name = choose(entries if folder is None else folder, entry)
    except WeightError as error:
        raise located(error, path) from error
    return name, entries[name] if folder is None else read_folder_file(folder[name])


def read_entries(path: str | Path, variant: str | None = None) -> dict[str, Tensors]:
    """All entries of a file or folder; see `read`."""
    path = Path(path)
    if not path.exists():
        raise WeightError(f"`path` names no file or folder: {path}.")
    if path.is_dir():
        files = folder_files(path, variant)
        return {entry: read_folder_file(file) for entry, file in files.items()}
    if variant is not None:
        raise WeightError(f"`variant` (={variant!r}) is for folders, and {path} is none.")
    if path.suffix == INDEX_SUFFIX:
        return _split(read_index(path))
    if path.suffix == _SAFETENSORS:
        return _split(read_safetensors(path))
    if path.suffix == _MINDSPORE:
        is_zip = BinaryFile(path).read(0, 4) == ZIP_MAGIC  # PyTorch Lightning's files
        return read_torch(path) if is_zip else {UNNAMED: read_mindspore(path)}
    if path.suffix in TORCH_SUFFIXES:
        return read_torch(path)
    known = (*TORCH_SUFFIXES, _SAFETENSORS, _MINDSPORE, _SAFETENSORS + ".index" + INDEX_SUFFIX)
    raise WeightError(
        f"`path` must be a folder or have one of the suffixes {listing(known)}, got {path}."
    )


def write(
    path: str | Path,
    entries: Mapping[str, Tensors],
    shard_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write entries under `path`, whose suffix chooses the format; no suffix means a folder.

    The file appears under its name when it is complete. `shard_size` (bytes) is for folders;
    `progress` is called with the number of bytes after each tensor.
    """
    path = Path(path)
    if shard_size is not None and shard_size < 1:
        raise WeightError(f"`shard_size` must be at least 1 byte, got {shard_size}.")
    if shard_size is not None and path.suffix:
        raise WeightError(f"`shard_size` is for folders, and {path} has a suffix.")
    if path.is_dir() or not path.suffix:
        write_folder(path, entries, shard_size, progress)
    elif path.suffix in TORCH_SUFFIXES:
        write_torch(path, entries, progress)
    elif path.suffix in (_SAFETENSORS, _MINDSPORE):
        if len(entries) != 1:
            raise WeightError(
                f"{path} can hold one entry, not {listing(list(entries))}; name a .pt or a folder."
            )
        writer = write_mindspore if path.suffix == _MINDSPORE else write_safetensors
        writer(path, next(iter(entries.values())), progress)
    else:
        known = (*TORCH_SUFFIXES, _SAFETENSORS, _MINDSPORE)
        raise WeightError(
            f"`path` must be a folder or have one of the suffixes {listing(known)}, got {path}."
        )


def naming_of(path: str | Path) -> Naming:
    """Whose names a file written under `path` holds."""
    return "memory" if Path(path).suffix == _MINDSPORE else "disk"


def _split(tensors: Tensors) -> dict[str, Tensors]:
    """Entries of a flat file, told by prefixes."""
    groups = by_prefix({name: name for name in tensors})
    return {entry: tensors.renamed(names) for entry, names in groups.items()}
