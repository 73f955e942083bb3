"""Checksums of the files in a checkpoint folder, one line each as `sha256sum` writes them.

`sha256sum --check checksums.sha256` in the folder checks the same without this package.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from latte_ms.atomic import atomic_file
from latte_ms.weights.errors import WeightError
from latte_ms.weights.tensors import Tensors

CHECKSUMS = "checksums.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\n]+)")
_BYTES = 1 << 22  # read at once
_PIECES, _PIECE_BYTES = 256, 1 << 16  # of a large file, for `quick_fingerprint`


def write_checksums(folder: Path) -> None:
    """Record the checksums of all files in `folder`."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    text = "".join(f"{digest(file)}  {file.name}\n" for file in files)
    with atomic_file(folder / CHECKSUMS) as partial:
        partial.write_text(text, encoding="utf-8")


def fingerprint(tensors: Tensors) -> str:
    """SHA-256 of names, shapes, dtypes and values; files and formats that hold them do not matter.

    Reads all of them, one at a time.
    """
    found = hashlib.sha256()
    for name, data in tensors.stream(sorted(tensors)):
        spec = tensors.specs[name]
        found.update(f"{name} {spec.dtype} {list(spec.shape)}\n".encode())
        found.update(data)
    return found.hexdigest()


def quick_fingerprint(path: Path) -> str:
    """SHA-256 of names, sizes and content of a file, or of all files under a folder.

    Hidden files are left out. Of a file of more than 16 MB the content is 256 pieces of 64 KB,
    evenly spaced: enough to tell weights that were trained further, and read in a moment.
    """
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        size = file.stat().st_size
        found.update(f"{name} {size}\n".encode("utf-8", "surrogateescape"))
        with file.open("rb") as stream:
            for start in _starts(size):
                stream.seek(start)
                found.update(stream.read(_PIECE_BYTES))
    return found.hexdigest()


def _starts(size: int) -> list[int]:
    """Where the pieces of a file begin: everywhere, or evenly spaced."""
    if size <= _PIECES * _PIECE_BYTES:
        return list(range(0, size, _PIECE_BYTES))
    return [piece * (size - _PIECE_BYTES) // (_PIECES - 1) for piece in range(_PIECES)]


def verify_folder(folder: Path, names: Iterable[str]) -> bool:
    """Check the files `names` of a folder; False where the folder records no checksums.

    Raises WeightError, with the path, for a file that is missing or not as it was recorded.
    """
    recorded = _recorded(folder)
    if recorded is None:
        return False
    for name in names:
        if name not in recorded:
            raise WeightError(f"{folder / CHECKSUMS} is damaged: it lacks {name}.")
        if not (folder / name).is_file():
            raise WeightError(f"{folder / name} is missing.")
        _verify(folder / name, recorded[name])
    return True


def verify_file(path: Path) -> None:
    """Check a file against the checksum beside it; a file without one passes.

    Raises WeightError, with the path, for a file that is not as it was recorded.
    """
    recorded = _recorded(path.parent) or {}
    if path.name in recorded:
        _verify(path, recorded[path.name])


def _recorded(folder: Path) -> dict[str, str] | None:
    """The checksum of each file; None where none are recorded."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return None
    *lines, rest = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines]
    if rest or None in matches:
        raise WeightError(f"{path} is damaged: it must hold a checksum and a name in each line.")
    return {match[2]: match[1] for match in matches if match is not None}


def _verify(path: Path, expected: str) -> None:
    if digest(path) != expected:
        raise WeightError(f"{path} is damaged: it is not as {CHECKSUMS} beside it records.")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BYTES):
            found.update(block)
    return found.hexdigest()
