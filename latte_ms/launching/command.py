"""The command line that the scripts in `scripts/launch` share, and the start of msrun by it."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from latte_ms.config import exit_on_error
from latte_ms.launching.machines import Machines, count_devices
from latte_ms.terminal import say

COMMANDS = Path(__file__).parents[1] / "commands"
_PORTS = range(1024, 65536)
STOPPING = (signal.SIGTERM, signal.SIGINT)
_DISTRIBUTED = "runtime.distributed="
_TRAINING = ("data.path", "loop.output")
# The programs for several devices: the keys of the folders of their data and output, "" for none.
PROGRAMS = {
    "train": _TRAINING,
    "train_autoencoder": _TRAINING,
    "encode": ("data.path", "latent_cache.path"),
    "sample": ("", "output"),
    "sample_t2v": ("", "output"),
    "calc_metrics": ("", ""),
}


@dataclass(frozen=True)
class Launch:
    """What is started on this machine."""

    machines: Machines
    workers: int  # processes on each machine, one per device
    program: Path
    arguments: tuple[str, ...]  # of the program
    port: int = 8118  # of machine 0, for the scheduler
    log_dir: str = "msrun_log"
    time_out: int = 600  # seconds that the machines wait for each other at the start
    bind_core: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"`--workers` must be at least 1, got {self.workers}.")
        if self.port not in _PORTS:
            raise ValueError(f"`--port` must be from 1024 to 65535, got {self.port}.")
        if self.time_out < 1:
            raise ValueError(f"`--time-out` must be at least 1 second, got {self.time_out}.")

    def command(self) -> list[str]:
        """The command line of the watched msrun."""
        options = {
            "worker_num": self.workers * self.machines.count,
            "local_worker_num": self.workers,
            "master_addr": self.machines.master,
            "master_port": self.port,
            "node_rank": self.machines.index,
            "log_dir": self.log_dir,
            "cluster_time_out": self.time_out,
            "bind_core": self.bind_core,
            "join": True,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        program = [str(self.program), *self.arguments, f"{_DISTRIBUTED}true"]
        return [sys.executable, "-m", "latte_ms.launching", *words, *program]

    def environment(self) -> dict[str, str]:
        """The variables it runs with: msrun starts the first `python` of the path, this one."""
        folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        return {**os.environ, "PATH": os.pathsep.join(folders)}

    def become(self) -> NoReturn:
        """Replace this process by it, so that signals and the exit status are its own."""
        os.execve(sys.executable, self.command(), self.environment())

    def run(self) -> int:
        """Start it and wait for its end; returns its exit status. SIGTERM and Ctrl-C reach it."""
        # In a session of its own: a signal to the group would reach it twice.
        process = subprocess.Popen(self.command(), env=self.environment(), start_new_session=True)

        def pass_on(number: int, _: FrameType | None) -> None:
            process.send_signal(number)

        previous = {number: signal.signal(number, pass_on) for number in STOPPING}
        try:
            status = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 128 - status if status < 0 else status


Around = Callable[[Launch, bool], Launch | int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `read` reads."""
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--workers", type=int, help="processes per machine (default: its Ascends, or else GPUs)")
    add("--port", type=int, default=Launch.port, help="port of machine 0 (default: %(default)s)")
    add("--log-dir", default=Launch.log_dir, help="folder of the logs (default: %(default)s)")
    add(
        "--time-out",
        type=int,
        default=Launch.time_out,
        help="seconds that machines wait for each other at the start (default: %(default)s)",
    )
    add("--bind-core", action="store_true", help="give each process CPU cores of its own (msrun)")
    add("--dry-run", action="store_true", help="print the command of msrun, and run nothing")
    add("program", help=f"{', '.join(PROGRAMS)}, or a Python file")
    add("arguments", nargs=argparse.REMAINDER, help="of the program: --config FILE key=value ...")


def launch_of(given: argparse.Namespace, machines: Machines) -> Launch:
    """What the options of `add_options` ask for on `machines`.

    Raises ValueError for an option out of its range, a program that does not exist, and where
    `--workers` is missing on a machine without devices.
    """
    workers = count_devices(os.environ) if given.workers is None else given.workers
    if given.workers is None and workers == 0:
        raise ValueError(
            "`--workers` must be given here: no Ascend (/dev/davinci0) and no GPU (/dev/nvidia0) "
            "was found."
        )
    for argument in given.arguments:
        if argument.startswith(_DISTRIBUTED):
            raise ValueError(f"`{argument}` must be left out: this script sets it to true.")
    return Launch(
        machines,
        workers,
        _program(given.program),
        tuple(given.arguments),
        given.port,
        given.log_dir,
        given.time_out,
        given.bind_core,
    )


def launch(
    description: str | None,
    find_machines: Callable[[argparse.Namespace], Machines],
    more_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    around: Callable[[argparse.Namespace], Around] | None = None,
) -> NoReturn:
    """The whole of a script: read its command line, print or run the command, end with its status.

    `more_options` declares options of the script's own, which `find_machines` and `around` read.
    What `around` returns runs the command with work of its own before and after; with a true second
    argument it returns what it would run. Otherwise the command replaces this process.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    more_options(parser)
    add_options(parser)
    given = parser.parse_args()
    with exit_on_error():
        wanted = launch_of(given, find_machines(given))
        if around is not None:
            result = around(given)(wanted, given.dry_run)
            if isinstance(result, int):
                sys.exit(result)
            wanted = result
    if given.dry_run:
        say(shlex.join(wanted.command()))
        sys.exit()
    wanted.become()


def _program(name: str) -> Path:
    """A file, or a command of this project by its name."""
    path = Path(name)
    ours = COMMANDS / f"{name}.py"
    if path.suffix != ".py" and len(path.parts) == 1 and ours.is_file():
        return ours
    if not path.is_file():
        raise ValueError(f"`program` must be a Python file or the name of a command: {name!r}.")
    return path
