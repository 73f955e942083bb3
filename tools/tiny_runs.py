"""Processes of `tiny_training.py`, alone or as ranks under the launcher, that can be killed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psutil

from tools.tiny_training import UPDATING

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = -1  # stands for the launcher where a rank is asked for
_SECONDS = 600  # after which a run hangs
_END_SECONDS = 60  # within which all processes end after one was killed


@dataclass(frozen=True)
class TinyRuns:
    """Starts runs; graphs that an earlier one compiled are taken from `folder`.

    Args:
        folder: also holds what the runs print.
        ranks: processes of each run; above 1 they are started by `one_machine.py`.
    """

    folder: Path
    ranks: int = 1

    @contextmanager
    def started(self, output: Path, max_steps: int, *options: str) -> Iterator["TinyRun"]:
        """A run in `output`, ended with the block. `options` are `tiny_training.py`'s."""
        cache = {
            "MS_COMPILER_CACHE_ENABLE": "1",
            "MS_COMPILER_CACHE_PATH": str(self.folder / "graphs"),
        }
        console, logs = self.folder / "console", self.folder / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        program = [str(ROOT / "tools" / "tiny_training.py"), str(output)]
        program += [f"--max-steps={max_steps}", *options]
        if self.ranks > 1:
            launcher = str(ROOT / "scripts" / "launch" / "one_machine.py")
            numbers = [f"--workers={self.ranks}", f"--port={free_port()}"]
            program = [launcher, *numbers, f"--log-dir={logs}", *program]
        process = psutil.Popen(
            [sys.executable, *program],
            cwd=self.folder,
            env={**os.environ, **cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        # Through a pipe, because a limit on the size of files holds for their output too.
        with console.open("wb", buffering=0) as file:
            copying = Thread(target=shutil.copyfileobj, args=(process.stdout, file), daemon=True)
            copying.start()
            run = TinyRun(process, self.ranks, console, logs, copying)
            try:
                yield run
            finally:
                run.end_all()

    def finish(self, output: Path, max_steps: int) -> None:
        """A run that nothing breaks. Raises RuntimeError with its output when it fails."""
        with self.started(output, max_steps) as run:
            status = run.wait()
        if status:
            raise RuntimeError(f"A run failed with status {status}:\n{run.text}")


@dataclass(frozen=True)
class TinyRun:
    """One run: its first process, which for several ranks is the launcher, and what it prints."""

    process: psutil.Popen
    ranks: int
    console: Path
    logs: Path
    copying: Thread  # of what the first process prints to `console`

    @property
    def text(self) -> str:
        """All that was printed so far, by all processes."""
        files = [self.console, *sorted(self.logs.glob("worker_*.log"))]
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def wait_for_updates(self) -> None:
        """Return after the first update. Raises RuntimeError when the run fails before."""
        deadline = time.monotonic() + _SECONDS
        while UPDATING not in self.text:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"A run failed before its first update:\n{self.text}")
            time.sleep(0.02)

    def kill(self, rank: int) -> str:
        """SIGKILL to the process of `rank`, or to the LAUNCHER; says what does not end then."""
        processes = [self.process, *self.process.children(recursive=True)]
        ours = [process for process in processes if process.name() != "tail"]
        victim = self.process if rank == LAUNCHER or self.ranks == 1 else self._worker(rank)
        victim.kill()
        _, alive = psutil.wait_procs(ours, timeout=_END_SECONDS)
        left = [" ".join(process.cmdline()[:2]) for process in alive]
        for process in processes:
            # Such as msrun's `tail` of the logs, which outlives a launcher that was killed.
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return f"after {_END_SECONDS} s still alive: {left}" if left else ""

    def wait(self) -> int:
        """The exit status of the first process, once all that it printed is in `text`."""
        status = int(self.process.wait(_SECONDS))
        self.copying.join(_END_SECONDS)
        return status

    def end_all(self) -> None:
        """Kill what still runs."""
        children = self.process.children(recursive=True) if self.process.is_running() else []
        for process in (self.process, *children):
            if process.is_running():
                process.kill()
        psutil.wait_procs([self.process, *children], timeout=_END_SECONDS)
        self.copying.join(_END_SECONDS)

    def _worker(self, rank: int) -> psutil.Process:
        for process in self.process.children(recursive=True):
            variables = process.environ()
            if variables.get("MS_ROLE") == "MS_WORKER" and variables.get("RANK_ID") == str(rank):
                return process
        raise RuntimeError(f"No process of rank {rank}:\n{self.text}")


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
