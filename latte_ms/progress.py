"""The progress of long work: a bar in a terminal, elsewhere a line of the log now and then."""

import io
import logging
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS = 60.0  # between two lines of the log
_FORMAT = "{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left, {rate_fmt}{postfix}"


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm over `iterable`, or one to call `update` of; `options` are tqdm's.

    Where standard error is no terminal it prints nothing, and logs a line with the rate once a
    minute. `disable=True` keeps it silent, `disable=False` asks for a bar in any case.
    """
    hidden = options.pop("disable", None)
    if hidden is None and not _is_terminal(options.get("file")):
        return _LoggedBar(iterable, **options)
    return tqdm(iterable, disable=bool(hidden), **options)


def _is_terminal(file: Any) -> bool:
    stream = file or sys.stderr
    return stream is not None and stream.isatty()


class _LoggedBar(tqdm):
    """tqdm's counting and rate; what it would draw is logged."""

    monitor_interval = 0  # no thread that redraws

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        self._logged = time.monotonic()
        fixed = {"file": io.StringIO(), "leave": False, "position": None, "bar_format": _FORMAT}
        intervals = {"mininterval": SECONDS, "maxinterval": SECONDS}
        super().__init__(iterable, **(options | fixed | intervals))

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Log the state, unless that was done less than a minute ago."""
        now = time.monotonic()
        if msg is None and now - self._logged >= SECONDS:
            self._logged = now
            logger.info("%s", str(self).strip())
        return True
