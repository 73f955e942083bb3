"""Signals between the updates of a run; `training/test_loop.py` has whole runs."""

import signal
import subprocess
import sys

import pytest

SECOND_SIGNAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from latte_ms.runtime import Rank
from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.stop import StopRequest
with StopRequest(Communicator(Rank())) as stop:
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


HANG_UPS = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)
from latte_ms.launcher import LAUNCHER_GONE
from latte_ms.runtime import Rank
from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.stop import StopRequest
with StopRequest(Communicator(Rank())) as stop:
    signal.raise_signal(signal.SIGHUP)
    print(stop.agreed(), flush=True)
    for number in (LAUNCHER_GONE, signal.SIGTERM, LAUNCHER_GONE, signal.SIGHUP):
        signal.raise_signal(number)
    print(stop.agreed(), flush=True)
signal.raise_signal(LAUNCHER_GONE)
print("survived", flush=True)
"""


@pytest.mark.parametrize(("start", "expected"), [("nohup", "False"), ("shell", "True")])
def test_hanging_up_never_cuts_a_save_short(start: str, expected: str) -> None:
    command = [sys.executable, "-c", HANG_UPS, start]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [expected, "True"]
    assert done.returncode == -signal.SIGUSR1, "the signals have their usual meaning again"
