"""Files and folders that appear under their names only when they are complete and on the disk.

After a crash, of the program or of the machine, a name stands for the old content or for the new
one. What is left under hidden names, `remove_partial` sweeps.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL, _REPLACED, _REMOVED = ".partial", ".replaced", ".removed"
_AGAIN = "and run the same command again."
_MORE_ROOM = f"Free some space, or choose another folder, {_AGAIN}"
_ADVICE = {
    errno.ENOSPC: _MORE_ROOM,
    errno.EDQUOT: _MORE_ROOM,
    errno.EFBIG: f"Raise the limit on the size of files (`ulimit -f`), {_AGAIN}",
}


class WriteError(OSError):
    """A file or folder cannot be written; `filename` is the name it would have had."""

    def __str__(self) -> str:
        reason = f"{self.filename} cannot be written: {self.strerror}."
        return f"{reason} {_ADVICE.get(self.errno or 0, '')}".rstrip()


@contextmanager
def writing(path: str | Path, temporary: str | Path | None = None) -> Iterator[None]:
    """Turn what the system says about writing `path` into a WriteError.

    It names `path` where the error names no file, and the final name where it names `temporary` or
    a file in it. Errors that name other files, which may be inputs, pass unchanged.
    """
    hidden = str(path if temporary is None else temporary)
    try:
        yield
    except OSError as error:
        name = hidden if error.filename is None else str(error.filename)
        if error.errno is None or not name.startswith(hidden):
            raise
        final = f"{path}{name.removeprefix(hidden)}"
        raise WriteError(error.errno, error.strerror, final) from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path next to `path` to write to; renamed to `path` at the end.

    The parent folder is created if it is missing. After an exception the temporary file is removed
    and an existing file `path` is unchanged. Raises WriteError where the system refuses.
    """
    path = Path(path)
    temporary = _hidden(path, _PARTIAL)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
    try:
        with writing(path, temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync_names(path.parent)
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder next to `path` to fill; renamed to `path` at the end, which it replaces.

    After an exception the temporary folder is removed and an existing folder `path` is unchanged.
    Raises WriteError where the system refuses.
    """
    path = Path(path)
    temporary = _hidden(path, _PARTIAL)
    _remove(temporary)
    try:
        with writing(path, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            _sync(temporary)
            _replace_folder(path, temporary)
    finally:
        _remove(temporary)


def remove_folder(path: str | Path) -> None:
    """Remove a folder; at no moment does a part of it stand under its name."""
    path = Path(path)
    removed = _hidden(path, _REMOVED)
    _remove(removed)
    path.rename(removed)
    _sync_names(path.parent)
    _remove(removed)


def remove_partial(folder: str | Path) -> None:
    """Remove what killed processes have left in `folder` while writing or removing.

    A folder that was about to be replaced, and whose replacement is missing, is restored.
    """
    for left in Path(folder).glob(f".*{_REPLACED}"):
        path = left.with_name(left.name[1:].removesuffix(_REPLACED).rpartition(".")[0])
        if path.exists():
            _remove(left)
        else:
            left.rename(path)
    for suffix in (_PARTIAL, _REMOVED):
        for left in Path(folder).glob(f".*{suffix}"):
            _remove(left)


def _replace_folder(path: Path, new: Path) -> None:
    """Rename `new` to `path`; an existing folder `path` is removed last, or restored on failure."""
    if not path.exists():
        new.rename(path)
        _sync_names(path.parent)
        return
    old = _hidden(path, _REPLACED)
    _remove(old)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _sync_names(path.parent)
    _remove(old)


def _sync(path: Path) -> None:
    """Return when a file, or a folder with all that it holds, is on the disk."""
    if path.is_dir():
        for member in path.iterdir():
            _sync(member)
        _sync_names(path)
    elif not path.is_symlink():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _sync_names(folder: Path) -> None:
    """Return when the names in `folder` are on the disk, where the system can wait for that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _hidden(path: Path, suffix: str) -> Path:
    """A hidden name next to `path`; it includes the process number."""
    return path.with_name(f".{path.name}.{os.getpid()}{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
