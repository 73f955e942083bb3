"""The terminal: output that must not cost a result.

Importing this module, which the package does first, opens standard streams that are closed.
"""

import atexit
import io
import logging
import os
import sys
from typing import TextIO

logger = logging.getLogger(__name__)


def say(text: str, *, error: bool = False) -> None:
    """Print `text` to standard output, or standard error, if it can be printed.

    Where the disk is full or nobody reads, a warning replaces it: the work goes on.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # it was closed when the process started
        return
    try:
        print(text, file=stream, flush=True)
    except OSError as reason:
        name = "Standard error" if error else "Standard output"
        _silence(stream)
        logger.warning("%s cannot be written: %s.", name, reason.strerror)


def print_result(text: str) -> None:
    """Print what a command is for to standard output. Raises OSError where that is impossible."""
    try:
        print(text, end="", flush=True)
    except OSError as reason:
        _silence(sys.stdout)
        raise OSError(f"Standard output cannot be written: {reason.strerror}.") from reason


def protect_streams() -> None:
    """Keep characters that the terminal lacks, and a failing stream, from ending a script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if stream is not None:
            atexit.register(_flush, stream)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):  # ValueError: closed
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Send what is left in the buffer of a stream that cannot be written to the null device.

    Otherwise the interpreter tries again when it ends, and changes the exit status.
    """
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    The next files that are opened would otherwise get their numbers, and what a library prints
    would be written into them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # the lowest one that is free
        os.set_inheritable(number, True)
    os.close(number)


_open_closed_streams()
