"""The launch scripts with real processes: two ranks train, and one that is killed ends them all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from latte_ms.training.history import read_history
from tests.end_to_end.test_distributed import children, environment, worker
from tests.processes import lives

ROOT = Path(__file__).parents[2]
WITHIN_SECONDS = 60.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc"),
]

# What msrun asks for the addresses of its machine: a second machine on this one has another.
OTHER_MACHINE = """#!/bin/sh
echo '[{"addr_info": [{"local": "127.0.0.2"}]}]'
"""
# Ranks that meet again and again, as those of a training do, without a training's compilation.
MEETING = """
import sys, time
from pathlib import Path
from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import RuntimeConfig, setup
communicator = Communicator(setup(RuntimeConfig(device="CPU", distributed=True)))
for number in range(int(sys.argv[1])):
    communicator.wait()
    Path(sys.argv[2], f"met_{communicator.rank.index}").touch()
    time.sleep(0.1)
"""

# Ranks that are asked to stop, and take some seconds for it.
STOPPING = """
import sys, time
from pathlib import Path
from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.stop import StopRequest
from latte_ms.runtime import RuntimeConfig, setup
communicator = Communicator(setup(RuntimeConfig(device="CPU", distributed=True)))
folder, index = Path(sys.argv[1]), communicator.rank.index
with StopRequest(communicator) as stop:
    while not stop.agreed():
        (folder / f"met_{index}").touch()
        time.sleep(0.1)
    time.sleep(5)
    (folder / f"saved_{index}").touch()
"""


@contextmanager
def launched(
    script: str, *arguments: str, folder: Path, **variables: str
) -> Iterator["subprocess.Popen[str]"]:
    """A launch script that runs in `folder`; it is ended with the block."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "launch" / script), *arguments],
        env={**environment(), **variables},
        cwd=folder,
        stdout=(folder / "console").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def console(folder: Path) -> str:
    return (folder / "console").read_text(errors="replace")


def wait_until(condition: object, *processes: "subprocess.Popen[str]", folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not condition():  # type: ignore[operator]
        assert all(process.poll() is None for process in processes), console(folder)
        assert time.monotonic() < deadline, console(folder)
        time.sleep(0.2)


def end(process: "subprocess.Popen[str]", since: float, folder: Path) -> int:
    """The exit status of a launcher, which must end soon after `since`."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(max(0.1, since + WITHIN_SECONDS - time.monotonic()))
    raise AssertionError(f"runs on after {WITHIN_SECONDS} s:\n{console(folder)}")


def test_one_machine_names_the_rank_that_dies_and_ends(
    train_arguments: list[str], tmp_path: Path, free_port: int
) -> None:
    output, options = tmp_path / "run", ["--workers", "2", "--port", str(free_port)]
    recipe = [*train_arguments, "loop.batch_size=1", "loop.max_steps=100000"]
    program = ["train", *recipe, f"loop.output={output}"]
    with launched("one_machine.py", *options, *program, folder=tmp_path) as launcher:
        history = output / "history.csv"
        wait_until(lambda: len(read_history(history)) >= 3, launcher, folder=tmp_path)
        processes = [pid for pid, _ in children(launcher.pid)]
        assert len(processes) == 3  # the scheduler and two workers
        os.kill(worker(1, launcher.pid), signal.SIGKILL)
        status = end(launcher, time.monotonic(), tmp_path)
    text = console(tmp_path)
    assert status == 1, text
    assert "error: Rank 1 was killed by SIGKILL" in text
    assert "The end of msrun_log/worker_1.log:\n" in text
    assert "error: Rank 0" not in text
    assert [pid for pid in processes if lives(pid)] == []


def test_workers_save_when_every_process_gets_the_signal(tmp_path: Path, free_port: int) -> None:
    """A job scheduler sends it to MindSpore's scheduler too, which ends by it at once."""
    program = tmp_path / "stopping.py"
    program.write_text(STOPPING)
    options = ["--workers", "2", "--port", str(free_port), str(program), str(tmp_path)]
    with launched("one_machine.py", *options, folder=tmp_path) as launcher:
        met = [tmp_path / f"met_{index}" for index in (0, 1)]
        wait_until(lambda: all(p.exists() for p in met), launcher, folder=tmp_path)
        processes = list(children(launcher.pid))
        scheduler = next(pid for pid, env in processes if env.get("MS_ROLE") == "MS_SCHED")
        for pid in (scheduler, launcher.pid):
            os.kill(pid, signal.SIGTERM)
        status = end(launcher, time.monotonic(), tmp_path)
    assert status == 128 + signal.SIGTERM, console(tmp_path)
    assert {path.name for path in tmp_path.glob("saved_*")} == {"saved_0", "saved_1"}
    assert [pid for pid, _ in processes if lives(pid)] == []


@contextmanager
def two_machines(
    folder: Path, port: int, program: list[str]
) -> Iterator[list["subprocess.Popen[str]"]]:
    """Launchers of two machines with one worker each, on this one."""
    fake = folder / "bin"
    fake.mkdir(parents=True)
    (fake / "ip").write_text(OTHER_MACHINE)
    (fake / "ip").chmod(0o755)
    path = os.pathsep.join([str(fake), environment()["PATH"]])
    options = ["--workers=1", "--machines=2", "--master=127.0.0.1", f"--port={port}"]
    with (
        launched(
            "several_machines.py", *options, "--index=0", *program, folder=folder / "0"
        ) as first,
        launched(
            "several_machines.py",
            *options,
            "--index=1",
            *program,
            folder=folder / "1",
            PATH=path,
        ) as second,
    ):
        yield [first, second]


@pytest.mark.extended
def test_two_machines_end_well(tmp_path: Path, free_port: int) -> None:
    program = tmp_path / "meeting.py"
    program.write_text(MEETING)
    arguments = [str(program), "3", str(tmp_path)]
    with two_machines(tmp_path, free_port, arguments) as machines:
        for index, machine in enumerate(machines):
            assert machine.wait(300) == 0, console(tmp_path / str(index))
    assert {path.name for path in tmp_path.glob("met_*")} == {"met_0", "met_1"}


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.extended), 1])
def test_both_machines_end_when_a_rank_of_one_dies(
    tmp_path: Path, free_port: int, victim: int
) -> None:
    program = tmp_path / "meeting.py"
    program.write_text(MEETING)
    arguments = [str(program), "100000", str(tmp_path)]
    with two_machines(tmp_path, free_port, arguments) as machines:
        met = [tmp_path / f"met_{index}" for index in (0, 1)]
        wait_until(lambda: all(p.exists() for p in met), *machines, folder=tmp_path / "0")
        processes = [pid for machine in machines for pid, _ in children(machine.pid)]
        assert len(processes) == 3
        os.kill(worker(victim, machines[victim].pid), signal.SIGKILL)
        killed = time.monotonic()
        statuses = [end(m, killed, tmp_path / str(i)) for i, m in enumerate(machines)]
    texts = [console(tmp_path / str(index)) for index in (0, 1)]
    assert statuses == [1, 1], texts
    assert f"error: Rank {victim} was killed by SIGKILL" in texts[victim]
    elsewhere = ("a process of another machine has died", "error: Rank 1 does not answer any more")
    assert elsewhere[victim] in texts[1 - victim]
    assert [pid for pid in processes if lives(pid)] == []
