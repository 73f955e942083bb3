"""Ending a run between two updates when the system or the user asks for it."""

import logging
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from mindspore import Tensor

from latte_ms.training.ranks import Ranks

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Holds SIGTERM, as schedulers send it, and Ctrl-C back until the running update is done.

    A second signal acts at once. Several ranks stop after the same update, whichever of them got
    the signal: they add up their flags after every update, and read the sum one update later, so
    that no update waits for it.

    Without it Ctrl-C would end the program on the spot: once a graph has run, MindSpore answers
    SIGINT by sending SIGTERM to its own process. So the two cannot be told apart here.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.signal: int | None = None
        self._ranks = ranks
        self._earlier: Tensor | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self) -> bool:
        """Whether to stop now; all ranks ask once after each update."""
        received = self.signal is not None
        if self._ranks.rank.count == 1:
            return received
        earlier, self._earlier = self._earlier, self._ranks.sum([float(received)])
        return earlier is not None and bool(earlier.asnumpy()[0] > 0)

    def end(self) -> NoReturn:
        """End the program with the status that the signal stands for."""
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore()
        logger.warning("%s: stopping after this update.", signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
