"""How long the launcher waits for workers that stop."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from latte_ms.launching.manager import wait_for_ends


@contextmanager
def sleeping(*seconds: float) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end by themselves after so many seconds."""
    code = "import sys, time; time.sleep(float(sys.argv[1]))"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(s)]) for s in seconds]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("seconds", [(0.5,), (0.2, 1.0)])
def test_processes_that_end_are_waited_for(seconds: tuple[float, ...]) -> None:
    with sleeping(*seconds) as processes:
        wait_for_ends(processes, grace=60.0)
        assert [process.poll() for process in processes] == [0] * len(seconds)


def test_a_process_that_waits_for_a_dead_one_is_given_up() -> None:
    with sleeping(60.0, 0.2) as processes:
        start = time.monotonic()
        wait_for_ends(processes, grace=0.5)
        assert processes[0].poll() is None
        assert 0.5 <= time.monotonic() - start < 30.0


def test_nothing_is_given_up_before_one_has_ended() -> None:
    with sleeping(1.5, 1.5) as processes:
        wait_for_ends(processes, grace=0.0)
        assert any(process.poll() == 0 for process in processes)
