"""A lock on a folder that one program at a time may fill."""

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from latte_ms.atomic import writing

logger = logging.getLogger(__name__)

_NAME = ".lock"


class FolderLock:
    """Context manager that holds `folder`; where another process holds it, ValueError is raised.

    The lock is the system's, on a hidden file in the folder: it ends with the process that holds
    it, however that ends. Missing folders are created, and removed at the end if they are empty.
    Where files cannot be locked, as on some network filesystems, a warning is logged and nothing is
    locked.

    Args:
        folder: the folder to hold.
        key: the key of the recipe that names it, for messages.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder, self.key = Path(folder), key
        self._file: IO[str] | None = None
        self._created: list[Path] = []

    def __enter__(self) -> "FolderLock":
        self._created = [part for part in (self.folder, *self.folder.parents) if not part.exists()]
        try:
            with writing(self.folder):
                self._file = self._locked()
                self._file.truncate(0)
                self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
                self._file.flush()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # of the file that could not be written
                (self.folder / _NAME).unlink(missing_ok=True)  # first, while nobody else holds it
                self._file.close()
            self._file = None
        with suppress(OSError):  # of a folder that is not empty
            for folder in self._created:
                folder.rmdir()

    def _locked(self) -> IO[str]:
        """The open file, locked if the system can lock it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / _NAME).open("a+", encoding="utf-8")
            try:
                self._lock(file)
                if _has_name(file, self.folder / _NAME):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()  # its last holder has just removed it

    def _lock(self, file: IO[str]) -> None:
        try:
            import fcntl  # missing on Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ValueError(
                f"`{self.key}` (={self.folder}) is in use by {file.read() or 'another process'}. "
                "Wait until that has ended, or choose another folder."
            ) from None
        except (ImportError, OSError) as error:
            logger.warning(
                "%s cannot be locked (%s): nothing keeps another run out of it.", self.folder, error
            )


def _has_name(file: IO[str], path: Path) -> bool:
    """Whether `path` is still the name of the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
