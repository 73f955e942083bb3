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


def write_checksums(folder: Path) -> None:
    """Record the checksums of all files in `folder`."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    text = "".join(f"{_digest(file)}  {file.name}\n" for file in files)
    with atomic_file(folder / CHECKSUMS) as partial:
        partial.write_text(text, encoding="utf-8")


def fingerprint(tensors: Tensors) -> str:
    """SHA-256 of names, shapes, dtypes and values; files and formats that hold them do not matter.

    Reads all of them, one at a time.
    """
    digest = hashlib.sha256()
    for name, data in tensors.stream(sorted(tensors)):
        spec = tensors.specs[name]
        digest.update(f"{name} {spec.dtype} {list(spec.shape)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


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
    if _digest(path) != expected:
        raise WeightError(f"{path} is damaged: it is not as {CHECKSUMS} beside it records.")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BYTES):
            digest.update(block)
    return digest.hexdigest()
