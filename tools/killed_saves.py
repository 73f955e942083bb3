"""SIGKILL before each file operation of a save, in forked processes that compile nothing."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
from mindspore import Tensor

from latte_ms import runtime
from latte_ms.parallel.communicator import Communicator
from latte_ms.training import checkpoint
from latte_ms.training.loop import RunWriter
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.run_folder import RunFolder
from tools.run_differences import differences
from tools.tiny_training import IDENTITY, KEEP, build, settings, setup

_LAST = KEEP + 1  # the update whose checkpoint is written, and after which the first one is pruned
_OPERATIONS = {
    *("open", "write", "flush", "__exit__", "close", "fsync", "truncate"),
    *("mkdir", "rename", "replace", "unlink", "remove", "rmdir"),
}


def operations(folder: Path, stride: int = 1) -> Iterator[tuple[str, str]]:
    """(the operation that is not reached, what is wrong), for every `stride`-th operation.

    A run of three updates has two checkpoints; writing the third prunes the first.
    """
    tiny = TinyRun()
    begun, unbroken, work = folder / "begun", folder / "unbroken", folder / "work"
    for number in range(1, _LAST):
        tiny.go_on(begun, number)
    shutil.copytree(begun, unbroken)
    tiny.go_on(unbroken, _LAST)
    for stop in range(0, 100_000, stride):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(begun, work)
        name = tiny.killed(work, stop)
        if name is None:
            return
        yield f"{stop}: {name}", tiny.resumed(work, unbroken)


class TinyRun:
    """A tiny Latte whose updates are made up: what is saved matters here, not how it came."""

    def __init__(self) -> None:
        self.network, self.step = build(setup())

    def writer(self, folder: RunFolder) -> RunWriter:
        return RunWriter(self.network, self.step, DenoisingObjective.term_names, folder)

    def go_on(self, output: Path, number: int) -> None:
        """Update number `number` of the run in `output`, and its checkpoint."""
        with RunFolder(settings(output, number), IDENTITY, runtime.Rank()) as folder:
            writer = self.writer(folder)
            if writer.begin(Communicator(folder.rank)) < number:
                self.update(writer, number)
            writer.save(number)

    def update(self, writer: RunWriter, number: int) -> None:
        rng = np.random.default_rng(number)
        optimizer = self.step.optimizer_state
        for parameter in (*self.step.weights, *self.step.ema, *optimizer.first_moments):
            parameter.set_data(Tensor(rng.standard_normal(parameter.shape, np.float32)))
        writer.log(number, dict.fromkeys(writer.columns, float(number)))

    def killed(self, output: Path, stop: int) -> str | None:
        """Kill a process before operation number `stop`; its name, or None if it ends before."""
        with RunFolder(settings(output, _LAST), IDENTITY, runtime.Rank()) as folder:
            writer = self.writer(folder)
            writer.begin(Communicator(folder.rank))
            read, write = os.pipe()
            process = os.fork()
            if process == 0:
                sys.setprofile(Countdown(stop, write))
                self.update(writer, _LAST)
                writer.save(_LAST)
                os._exit(0)
            os.close(write)
            with os.fdopen(read) as pipe:
                name = pipe.read()
            os.waitpid(process, 0)
        return name or None

    def resumed(self, output: Path, unbroken: Path) -> str:
        """What is wrong with the folder of a killed run, or after it has gone on."""
        with RunFolder(settings(output, _LAST), IDENTITY, runtime.Rank()) as folder:
            try:
                for path in folder.checkpoints.iterdir():
                    checkpoint.check_intact(path)
            except ValueError as error:
                return str(error)
        self.go_on(output, _LAST)
        return differences(output, unbroken)


class Countdown:
    """A profile function that kills this process before file operation number `stop`."""

    def __init__(self, stop: int, pipe: int) -> None:
        self.left, self.pipe = stop, pipe

    def __call__(self, frame: FrameType, event: str, function: object) -> None:
        if event != "c_call" or not is_operation(function):
            return
        if self.left == 0:
            sys.setprofile(None)
            where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            os.write(self.pipe, f"{function.__name__} at {where}".encode())  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def is_operation(function: object) -> bool:
    """Whether a built-in function or method changes files."""
    if getattr(function, "__name__", "") not in _OPERATIONS:
        return False
    owner = getattr(function, "__self__", None)
    in_memory = type(owner).__name__ in ("StringIO", "BytesIO")
    modules = {getattr(function, "__module__", None), type(owner).__module__}
    return not in_memory and bool(modules & {"posix", "io", "_io"})
