"""Processes of one run: those with a failure end last."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from latte_ms.parallel.barrier import Barrier

ROOT = Path(__file__).parents[2]


def leaving(barrier: Barrier, wait: bool = True) -> threading.Thread:
    """A thread that leaves, after the time that this takes without waiting."""
    thread = threading.Thread(target=barrier.leave, args=(wait,), daemon=True)
    thread.start()
    thread.join(0.5)
    return thread


def test_waiting_processes_leave_last(tmp_path: Path) -> None:
    """Two that wait do not wait for each other; nothing is left in the folder."""
    first, second, third, fourth = (Barrier(tmp_path) for _ in range(4))
    waiting = [leaving(first), leaving(second)]
    assert not leaving(third, wait=False).is_alive()
    assert all(thread.is_alive() for thread in waiting), "the fourth is still at work"
    assert not leaving(fourth, wait=False).is_alive()
    for thread in waiting:
        thread.join(30)
    assert not any(thread.is_alive() for thread in waiting)
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_for_a_killed_process(tmp_path: Path) -> None:
    code = "import sys; from latte_ms.parallel.barrier import Barrier\n"
    code += f"barrier = Barrier({str(tmp_path)!r}); print('here', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        assert any(line == "here\n" for line in process.stdout)
        thread = leaving(Barrier(tmp_path))
        assert thread.is_alive()
        process.kill()
        thread.join(30)
    assert not thread.is_alive()


def test_the_scheduler_of_msrun_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Barrier(tmp_path)
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    scheduler = Barrier(tmp_path)
    assert not leaving(worker).is_alive()
    scheduler.leave(wait=False)


def test_runs_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_SCHED_PORT", "8118")
    first = Barrier(tmp_path)
    monkeypatch.setenv("MS_SCHED_PORT", "8119")
    second = Barrier(tmp_path)
    assert not leaving(first).is_alive()
    second.leave(wait=False)


def test_a_file_that_cannot_be_locked_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name is taken by a folder."""
    monkeypatch.setenv("MS_SCHED_HOST", "here")
    monkeypatch.setenv("MS_SCHED_PORT", "1")
    (tmp_path / ".running_here_1").mkdir()
    with caplog.at_level(logging.WARNING):
        barrier = Barrier(tmp_path)
    assert f"Files in {tmp_path} cannot be locked" in caplog.text
    assert not leaving(barrier).is_alive()
