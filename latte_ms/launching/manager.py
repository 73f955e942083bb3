"""msrun's processes on one machine, watched: all end soon after one has died, and it is named."""

import math
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mindspore.parallel.cluster.process_entity import _ProcessManager
from mindspore.parallel.cluster.run import get_args

from latte_ms.launcher import LAUNCHER_GONE
from latte_ms.terminal import say

SCHEDULER = "The scheduler"
_POLL_SECONDS = 0.1
# A scheduler may end some seconds before the last worker does.
_PROBE_SECONDS, _LOST_SECONDS = 4.0, 20.0
# Of workers that stop, the first rank may still write a checkpoint when another has ended.
_STOP_SECONDS = 300.0
_SILENT = r"The node: (\d+) is timed out"  # MindSpore's scheduler about a rank
_LAST_LINES = 20
_MAX_BYTES = 1 << 16  # of a log that are read for its last lines
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run msrun's command line in this process, to the end of all processes that it starts."""
    args = get_args()
    args.join = True
    _wait_for_name(args.master_addr, args.cluster_time_out)
    WatchedManager(args).run()


def _wait_for_name(host: str, seconds: float) -> None:
    """Return when `host` has an address: clouds announce machines some time after their start."""
    deadline = time.monotonic() + seconds
    while not _has_address(host):
        if time.monotonic() > deadline:
            say(f"error: machine 0 has no address that is known here: {host!r}.", error=True)
            raise SystemExit(2)
        time.sleep(_PROBE_SECONDS)


def _has_address(host: str) -> bool:
    try:
        socket.gethostbyname(host)
    except OSError:
        return False
    return True


class WatchedManager(_ProcessManager):
    """msrun's manager, which ends what it started as soon as one process has died.

    msrun itself names a process id instead of a rank, then waits half a minute for the scheduler,
    which calls dead whatever it has not heard of for as long. It does not look at the scheduler
    while workers live. Here a scheduler that fails, or that a machine without one cannot reach any
    more, ends a machine's workers, too: they would wait for the dead one for ever.

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
            dead = self._first_failures(received)
        self._end_all()
        if received:
            raise SystemExit(128 + received[0])
        if dead:
            _fail(dead, Path(self.log_dir, "scheduler.log"))

    def _first_failures(self, received: list[int]) -> dict[str, tuple[str, Path]]:
        """Name -> manner and log of what has failed; empty when everything ended well.

        Once a signal is `received`, the workers may stop in peace: a job scheduler sends it to the
        scheduler as well, which ends by it while they still save.
        """
        workers = {self._first_rank + i: p for i, p in enumerate(self.cgn_processes)}
        watched = {f"Rank {i}": (p, f"worker_{i}.log") for i, p in workers.items()}
        elsewhere = None
        if self.msn_process is None:
            elsewhere = Reachable(self.master_addr, self.master_port)
        else:
            watched[SCHEDULER] = (self.msn_process, "scheduler.log")
        logs = Path(self.log_dir)
        while True:
            if received:
                wait_for_ends(self.cgn_processes, _STOP_SECONDS)
                return {}
            codes = {name: process.poll() for name, (process, _) in watched.items()}
            failed = {
                name: (_manner(code), logs / watched[name][1])
                for name, code in codes.items()
                if code
            }
            if failed or all(code == 0 for code in codes.values()):
                return failed
            if elsewhere is not None and elsewhere.is_lost():
                lost = f"of machine 0 ({elsewhere}) is gone: a process of another machine has died"
                return {SCHEDULER: (lost, logs)}
            time.sleep(_POLL_SECONDS)

    @property
    def _first_rank(self) -> int:
        alone = self.local_worker_num == self.worker_num
        return 0 if alone else self.node_rank * self.local_worker_num

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


def wait_for_ends(processes: Sequence[subprocess.Popen[Any]], grace: float) -> None:
    """Return when all processes have ended, or `grace` seconds after the first one has.

    What is left then waits for a rank, or a scheduler, that is gone.
    """
    deadline = math.inf
    while (left := sum(process.poll() is None for process in processes)) > 0:
        if left < len(processes):
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


class Reachable:
    """Whether a port that was once reached still is."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._last: float | None = None  # when it was reached
        self._next = 0.0

    def __str__(self) -> str:
        return "{}:{}".format(*self._address)

    def is_lost(self) -> bool:
        """Whether it has been out of reach for `_LOST_SECONDS`; it is tried now and then."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROBE_SECONDS
            with suppress(OSError):
                socket.create_connection(self._address, timeout=_PROBE_SECONDS / 2).close()
                self._last = now
        return self._last is not None and now - self._last > _LOST_SECONDS


def _fail(dead: dict[str, tuple[str, Path]], scheduler_log: Path) -> NoReturn:
    """Name what has failed first. What the scheduler misses is the cause, the rest follows it."""
    if silent := re.findall(_SILENT, _tail(scheduler_log)):
        ranks = ", ".join(sorted(set(silent), key=int))
        say(
            f"error: Rank {ranks} does not answer any more, by {scheduler_log}: it has died or "
            "hangs, which its own machine explains.",
            error=True,
        )
    else:
        for name, (manner, log) in dead.items():
            say(f"error: {name} {manner}.{_end_of(log)}", error=True)
    say("All processes of this machine have been ended.", error=True)
    raise SystemExit(1)


def _manner(status: int) -> str:
    """How a process ended, in words; `status` is that of `subprocess`: -n for signal n."""
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL, which is also how the system ends what takes too much memory"
    if status == -signal.SIGTERM:
        return "was ended by SIGTERM, as MindSpore does when it misses another rank"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def _end_of(log: Path) -> str:
    """The last lines of a log, as a part of a message; nothing if it is not a file."""
    lines = _tail(log).splitlines()[-_LAST_LINES:]
    return "".join([f" The end of {log}:", *(f"\n  {line}" for line in lines)]) if lines else ""


def _tail(log: Path) -> str:
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_BYTES))
        return file.read().decode(errors="replace")
