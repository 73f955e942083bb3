"""Signals between the updates of a run; `training/test_loop.py` has whole runs."""

import subprocess
import sys

SECOND_SIGNAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from latte_ms.runtime import Rank
from latte_ms.parallel.ranks import Ranks
from latte_ms.parallel.stop import StopRequest
with StopRequest(Ranks(Rank())) as stop:
    signal.raise_signal(signal.SIGTERM)
    assert stop.agreed()
    print("asked", flush=True)
    signal.raise_signal(signal.SIGINT)
    print("survived", flush=True)
"""


def test_a_second_signal_acts_at_once() -> None:
    """In a process of its own: MindSpore replaces this one's handlers once a graph has run."""
    done = subprocess.run([sys.executable, "-c", SECOND_SIGNAL], capture_output=True, text=True)
    assert done.stdout.split() == ["asked"]
    assert "KeyboardInterrupt" in done.stderr
