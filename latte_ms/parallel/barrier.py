"""A barrier at the end of a run, for processes that fill one folder together."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)


class Barrier:
    """Lets a process of a run wait until the other processes are done.

    `msrun` kills all processes when one of them ends with an error, so that one has to wait,
    perhaps for hours: longer than the timeout of collective operations. The processes hold a shared
    lock on a hidden file in `output`, which the system releases when a process ends, however it
    ends. Processes of other machines take part where they share the folder.

    Create it before `runtime.setup`, which returns only when all processes have entered it. Where
    files cannot be locked, a warning is logged and nobody waits.
    """

    def __init__(self, output: str | Path) -> None:
        import fcntl  # missing on Windows, as msrun is

        run = "_".join(os.environ.get(name, "") for name in ("MS_SCHED_HOST", "MS_SCHED_PORT"))
        self._path = Path(output) / f".running_{run}"
        self._file: IO[bytes] | None = None
        if os.environ.get("MS_ROLE") == "MS_SCHED":
            return  # msrun's scheduler runs the same script and ends last
        file: IO[bytes] | None = None
        try:
            file = self._path.open("ab")
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            logger.warning(
                "Files in %s cannot be locked: no process waits for the others (%s).",
                *(output, error),
            )
            if file is not None:
                file.close()
        else:
            self._file = file

    def leave(self, wait: bool) -> None:
        """This process is done; `wait` until the others are. The last one removes the file."""
        import fcntl

        if self._file is None:
            return
        with self._file, suppress(OSError):  # without `wait`, an error means that others still run
            # First unlock: on NFS, two processes that upgrade their locks would wait forever.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self._path.unlink(missing_ok=True)
