"""Ending a run between two updates when the system or the user asks for it."""

import logging
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from mindspore import Tensor

from latte_ms.parallel.ranks import Ranks

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Context manager that delays SIGTERM (of a job scheduler) and Ctrl-C until an update ends.

    A second signal takes effect immediately. All ranks stop after the same update, whichever of
    them received the signal: they sum their flags after every update, and read the sum one update
    later, so no update waits for it.

    Without it Ctrl-C would end the program immediately: once a graph has run, MindSpore answers
    SIGINT by sending SIGTERM to its own process. Therefore the two cannot be distinguished here.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.signal: int | None = None
        self._ranks = ranks
        self._previous_sum: Tensor | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._receive) for number in _SIGNALS
            }
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()

    def agreed(self) -> bool:
        """Whether to stop now; every rank must call this once after each update."""
        received = self.signal is not None
        if self._ranks.rank.count == 1:
            return received
        previous, self._previous_sum = self._previous_sum, self._ranks.sum([float(received)])
        return previous is not None and bool(previous.asnumpy()[0] > 0)

    def end(self) -> NoReturn:
        """End the program with the exit status that the signal stands for."""
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore_handlers()
        logger.warning("%s: stopping after this update.", signal.Signals(number).name)

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}
