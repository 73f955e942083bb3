"""Files and folders that appear under their names only when they are complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL, _REPLACED = ".partial", ".replaced"


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path next to `path` to write to; renamed to `path` at the end.

    The parent folder is created if it is missing. After an exception the temporary file is removed
    and an existing file `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden(path, _PARTIAL)
    _remove(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder next to `path` to fill; renamed to `path` at the end, which it replaces.

    After an exception the temporary folder is removed and an existing folder `path` is unchanged.
    """
    path = Path(path)
    temporary = _hidden(path, _PARTIAL)
    _remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _replace_folder(path, temporary)
    finally:
        _remove(temporary)


def remove_partial(folder: str | Path) -> None:
    """Remove what killed processes have left in `folder` while writing.

    A folder that was about to be replaced, and whose replacement is missing, is restored.
    """
    for left in Path(folder).glob(f".*{_REPLACED}"):
        path = left.with_name(left.name[1:].removesuffix(_REPLACED).rpartition(".")[0])
        if path.exists():
            _remove(left)
        else:
            left.rename(path)
    for left in Path(folder).glob(f".*{_PARTIAL}"):
        _remove(left)


def _replace_folder(path: Path, new: Path) -> None:
    """Rename `new` to `path`; an existing folder `path` is removed last, or restored on failure."""
    if not path.exists():
        new.rename(path)
        return
    old = _hidden(path, _REPLACED)
    _remove(old)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _remove(old)


def _hidden(path: Path, suffix: str) -> Path:
    """A hidden name next to `path`; it includes the process number."""
    return path.with_name(f".{path.name}.{os.getpid()}{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
