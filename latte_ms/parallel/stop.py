"""Ending a run between two updates when the system or the user asks for it."""

import logging
import signal
import threading
from collections.abc import Set
from types import FrameType
from typing import Any, NoReturn

from mindspore import Tensor

from latte_ms.launcher import LAUNCHER_GONE
from latte_ms.parallel.communicator import Communicator

logger = logging.getLogger(__name__)

_URGENT = {signal.SIGTERM, signal.SIGINT}
_HANG_UP = int(getattr(signal, "SIGHUP", 0))  # 0: a system without it
_SIGNALS = {*_URGENT, _HANG_UP, LAUNCHER_GONE} - {0}


class StopRequest:
    """Context manager that delays signals to end until after the current update.

    These are SIGTERM, which batch systems send; Ctrl-C; SIGHUP of a terminal that closes, unless
    `nohup` has switched it off; and `LAUNCHER_GONE`. A second SIGTERM or Ctrl-C takes effect
    immediately. All ranks stop after the same update, whichever of them received the signal: they
    sum their flags after every update, and read the sum one update later, so no update waits for
    it.

    Once a graph has run, MindSpore answers SIGINT by sending SIGTERM to its own process: Ctrl-C
    then arrives here as SIGTERM, and without this class it would end the program immediately.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.signal: int | None = None
        self._communicator = communicator
        self._previous_sum: Tensor | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._receive)
                for number in _SIGNALS
                if number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN
            }
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers(_SIGNALS)

    def agreed(self) -> bool:
        """Whether to stop now; every rank must call this once after each update."""
        received = self.signal is not None
        if self._communicator.rank.count == 1:
            return received
        previous, self._previous_sum = self._previous_sum, self._communicator.sum([float(received)])
        return previous is not None and bool(previous.asnumpy()[0] > 0)

    def end(self) -> NoReturn:
        """End the program with the exit status that the signal stands for."""
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        if number in _URGENT:
            self._restore_handlers(_URGENT)
        reason = " (the launcher has ended)" if number == LAUNCHER_GONE else ""
        logger.warning("%s%s: stopping after this update.", signal.Signals(number).name, reason)

    def _restore_handlers(self, numbers: Set[int]) -> None:
        for number in numbers & self._previous_handlers.keys():
            signal.signal(number, self._previous_handlers.pop(number))
