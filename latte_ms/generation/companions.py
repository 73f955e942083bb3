"""The processes of one run, which fill a folder together."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)


class Companions:
    """The processes of one run, each of which can wait until the others are done.

    `msrun` kills all processes when one ends with an error, so that one has to wait, perhaps for
    hours: longer than collective operations do. The processes share the lock of a hidden file in
    `output`, which the system takes from those that end, in whatever way; other machines' are
    waited for where they share the folder. Make it before `runtime.setup`, which no process leaves
    before all have begun it. Where files cannot be locked there is a warning, and no waiting.
    """

    def __init__(self, output: str | Path) -> None:
        import fcntl  # missing on Windows, as msrun is

        run = "_".join(os.environ.get(name, "") for name in ("MS_SCHED_HOST", "MS_SCHED_PORT"))
        self._path = Path(output) / f".running_{run}"
        self._file: IO[bytes] | None = None
        if os.environ.get("MS_ROLE") == "MS_SCHED":
            return  # msrun's scheduler runs the same script, and ends after all others
        file: IO[bytes] | None = None
        try:
            file = self._path.open("ab")
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            logger.warning("Files of `output` cannot be locked: no waiting for others (%s).", error)
            if file is not None:
                file.close()
        else:
            self._file = file

    def leave(self, wait: bool) -> None:
        """This process is done; `wait` until the others are. The last one removes the file."""
        import fcntl

        if self._file is None:
            return
        with self._file, suppress(OSError):  # of which one says that others are running
            fcntl.flock(self._file, fcntl.LOCK_UN)  # on NFS, two would wait for each other
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self._path.unlink(missing_ok=True)
