"""Ending the processes of a distributed run when the launcher that waits for them is killed.

`msrun` ends all processes when one of them fails, but nothing ends them when msrun itself is gone:
its scheduler keeps waiting and the workers work on.
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

# What a worker receives then. Not SIGTERM, which batch systems send to workers and msrun at once: a
# second SIGTERM ends a training run without saving. Not SIGHUP, which `nohup` switches off.
LAUNCHER_GONE = int(getattr(signal, "SIGUSR1", 0))  # 0: a system without msrun
_PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent has died


def end_with_launcher() -> None:
    """Let this process end when an msrun that was started with `--join=True` dies.

    A worker receives `LAUNCHER_GONE`, which ends it, or lets a training run save before it ends.
    MindSpore's scheduler receives SIGTERM; without it MindSpore ends within a minute what is left.
    An msrun without `--join=True` ends first, and leaves its processes to themselves.
    """
    if sys.platform == "linux" and _waits_for_us(os.getppid()):
        scheduler = os.environ.get("MS_ROLE") == "MS_SCHED"
        number = signal.SIGTERM if scheduler else LAUNCHER_GONE
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _waits_for_us(parent: int) -> bool:
    """Whether the command line of the parent process is that of an msrun with `--join=True`."""
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--join", default="False")
    ours = {"cluster.run", "latte_ms.launching"}
    is_msrun = any(Path(word).name == "msrun" or word.endswith(tuple(ours)) for word in words)
    return is_msrun and parser.parse_known_args(words)[0].join == "True"
