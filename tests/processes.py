"""Programs under test: run in this process, or watched from outside."""

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest


def run_here(main: Callable[[], object], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`main` in this process, with this command line: its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["program", *arguments])
        try:
            status = main()
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(list(arguments), status, out.getvalue(), err.getvalue())


def lives(pid: int) -> bool:
    """Whether a process runs, and is not only waiting to be collected; by Linux's /proc."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def python_of(folder: str, requirements: str) -> Path:
    """The interpreter of an environment of its own, made from a file of requirements if needed."""
    root = Path(__file__).parents[1]
    command = ["bash", "scripts/setup.sh", "--only", requirements, str(root / folder)]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    return root / folder / "bin" / "python"
