"""msrun's processes on one machine, watched: all end soon after one has died, and it is named."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mindspore.parallel.cluster.process_entity import _ProcessManager
from mindspore.parallel.cluster.run import get_args

from latte_ms.launcher import LAUNCHER_GONE
from latte_ms.terminal import say

_POLL_SECONDS = 0.1
_LAST_LINES = 20
_MOST_BYTES = 1 << 16  # of a log that are read for its last lines
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run msrun's command line in this process, to the end of all processes that it starts."""
    args = get_args()
    args.join = True
    WatchedManager(args).run()


class WatchedManager(_ProcessManager):
    """msrun's manager, which ends what it started as soon as one process has died.

    msrun itself names a process id instead of a rank, waits half a minute for the scheduler, which
    names as dead whatever it has not heard of for as long, and does not look at the scheduler while
    workers live: without that, a machine does not learn of a death on another one.

    SIGTERM and Ctrl-C let the workers stop as they do when their launcher is gone: a training run
    saves first. A second signal ends this process, and with it the workers.
    """

    def join_processes(self) -> None:
        """Return when all processes have ended well.

        Otherwise all are ended, the first one that failed is named with the last lines of its log,
        and SystemExit is raised: 128 plus the number of the signal that this process received, or
        else 1.
        """
        with self._passing_signals_on() as received:
            dead = self._first_failures()
        self._end_all()
        if received:
            raise SystemExit(128 + received[0])
        if dead:
            _fail(dead)

    def _first_failures(self) -> dict[str, tuple[int, Path]]:
        """Name -> exit status and log of what has failed; empty when everything ended well."""
        logs = Path(self.log_dir)
        first = max(self.node_rank, 0) * self.local_worker_num
        if self.local_worker_num == self.worker_num:
            first = 0
        names = {f"Rank {first + i}": p for i, p in enumerate(self.cgn_processes)}
        files = {f"Rank {first + i}": f"worker_{first + i}.log" for i in range(len(names))}
        if self.msn_process is not None:
            names["The scheduler"], files["The scheduler"] = self.msn_process, "scheduler.log"
        while True:
            codes = {name: process.poll() for name, process in names.items()}
            failed = {name: (code, logs / files[name]) for name, code in codes.items() if code}
            if failed or all(code == 0 for code in codes.values()):
                return failed
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def _passing_signals_on(self) -> Iterator[list[int]]:
        """Let workers stop at the first SIGTERM or Ctrl-C; yields the list of what was received."""
        received: list[int] = []

        def receive(number: int, _: FrameType | None) -> None:
            received.append(number)
            if len(received) == 1:
                say(f"{signal.Signals(number).name}: the workers stop.", error=True)
                for process in self.cgn_processes:
                    with suppress(ProcessLookupError):
                        process.send_signal(LAUNCHER_GONE)
            else:
                self._end_all()

        previous = {number: signal.signal(number, receive) for number in _STOPPING}
        try:
            yield received
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _end_all(self) -> None:
        """Kill what is left, with the children of workers; each worker leads a process group."""
        for process in self.cgn_processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        if self.msn_process is not None:
            self.msn_process.kill()
        self.kill_tail_log_processes()


def _fail(dead: dict[str, tuple[int, Path]]) -> NoReturn:
    for name, (status, log) in dead.items():
        lines = "".join(f"\n  {line}" for line in _last_lines(log))
        say(f"error: {name} {_manner(status)}. The end of {log}:{lines}", error=True)
    say("All other processes of this machine have been ended.", error=True)
    raise SystemExit(1)


def _manner(status: int) -> str:
    """How a process ended, in words; `status` is that of `subprocess`: -n for signal n."""
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL, which is also how the system ends what takes too much memory"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def _last_lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError as error:
        return [f"(cannot be read: {error.strerror})"]
