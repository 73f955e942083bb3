"""Break training runs and see whether they go on bit for bit: `kill_training.py [STUDY ...]`.

    python tools/kill_training.py                      # all three studies
    python tools/kill_training.py moments --count 30 --seed 0

moments     SIGKILL at random moments of a run in a process of its own, again and again; in the end
            weights, EMA, optimizer and history must equal those of an unbroken run.
operations  SIGKILL before each file operation of one checkpoint and the pruning after it; what is
            left must go on to the files of an unbroken run.
sizes       a limit on the size of files, from nothing to the largest file of a checkpoint; the run
            must end with status 2 and the path, and go on to the files of an unbroken run.

Prints one row per case. The exit status is 1 if any fails.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from latte_ms.training import checkpoint
from latte_ms.training.run_folder import CHECKPOINTS
from tools.killed_saves import operations
from tools.run_differences import differences
from tools.tiny_training import UPDATING

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 600  # after which a run hangs
_MORE = 6  # updates that a broken run still makes at the end


@dataclass(frozen=True)
class Case:
    """One broken run. `problem` is empty if everything is as it must be."""

    study: str
    name: str
    problem: str


def moments(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Kill one run `count` times at random moments after an update; then let it end."""
    rng, output = random.Random(seed), folder / "broken"
    for _ in range(count):
        delay = rng.uniform(0.0, 3.0)
        with start(output, 10**9, folder) as process:
            wait_for_updates(process)
            time.sleep(delay)
            process.kill()
        done = newest(output)
        yield Case("moments", f"{delay:.2f} s, update {done}", not_whole(output))
    yield Case("moments", "the end", ended_alike(output, folder))


def sizes(folder: Path, count: int) -> Iterator[Case]:
    """Limit the size of files to `count` values below what a run needs; then take the limit off."""
    output = folder / "limited"
    finish(output, _MORE, folder)
    largest = max(path.stat().st_size for path in output.rglob("*.safetensors"))
    for i in range(count):
        limit = largest * i // count
        with start(output, 2 * _MORE, folder, f"--file-limit={limit}") as process:
            _, text = process.communicate(timeout=_SECONDS)
        yield Case("sizes", f"{limit} bytes", refusal(process.returncode, text, output))
    yield Case("sizes", "no limit", ended_alike(output, folder))


def refusal(status: int, text: str, output: Path) -> str:
    """What is wrong with the end of a run that had no room."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if status != 2 or len(lines) != 1 or "Traceback" in text:
        return f"status {status}: {text.strip().splitlines()[-1:]}"
    if str(output) not in lines[0] or "run the same command again" not in lines[0]:
        return lines[0]
    hidden = [path.name for path in output.rglob(".*")]
    return f"left: {hidden}" if hidden else not_whole(output)


def start(output: Path, max_steps: int, folder: Path, *options: str) -> "subprocess.Popen[str]":
    """A tiny training run; graphs that an earlier one compiled are taken from `folder`."""
    cache = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(folder / "graphs")}
    script = str(ROOT / "tools" / "tiny_training.py")
    return subprocess.Popen(
        [sys.executable, script, str(output), f"--max-steps={max_steps}", *options],
        cwd=folder,
        env={**os.environ, **cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_updates(process: "subprocess.Popen[str]") -> None:
    """Return after the first update of a run. Raises RuntimeError when it fails before."""
    assert process.stdout is not None
    if process.stdout.readline().strip() != UPDATING:
        raise RuntimeError(f"A run failed:\n{process.communicate()[1]}")


def finish(output: Path, max_steps: int, folder: Path) -> None:
    """A run that nothing breaks. Raises RuntimeError with its output when it fails."""
    with start(output, max_steps, folder) as process:
        _, text = process.communicate(timeout=_SECONDS)
    if process.returncode:
        raise RuntimeError(f"A run failed with status {process.returncode}:\n{text}")


def newest(output: Path) -> int:
    path = checkpoint.latest(output / CHECKPOINTS)
    return 0 if path is None else int(path.name)


def not_whole(output: Path) -> str:
    """Names a folder that is called a checkpoint and is not whole; empty if there is none."""
    try:
        for path in (output / CHECKPOINTS).glob("[0-9]*"):
            checkpoint.check_intact(path)
    except ValueError as error:
        return str(error)
    return ""


def ended_alike(output: Path, folder: Path) -> str:
    """Let a broken run end, and an unbroken one of the same length; says how they differ."""
    max_steps, unbroken = newest(output) + _MORE, folder / "unbroken"
    for path in (output, unbroken):
        finish(path, max_steps, folder)
    return differences(output, unbroken)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    studies = ("moments", "operations", "sizes")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(studies))
    parser.add_argument("--count", type=int, help="of moments (default 30) or sizes (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    unknown = set(args.studies) - set(studies)
    if unknown or (args.count is not None and args.count < 1):
        parser.error(f"STUDY must be of {', '.join(studies)}, and --count at least 1")
    failed = 0
    for study in args.studies or studies:
        with tempfile.TemporaryDirectory() as name:
            failed += report(run(study, Path(name), args.count, args.seed))
    return int(failed > 0)


def run(study: str, folder: Path, count: int | None, seed: int) -> Iterator[Case]:
    if study == "moments":
        return moments(folder, count or 30, seed)
    if study == "sizes":
        return sizes(folder, count or 20)
    return (Case(study, name, problem) for name, problem in operations(folder))


def report(cases: Iterator[Case]) -> int:
    """Print the cases that fail and how many hold; returns how many fail."""
    found = list(tqdm(cases, desc="cases", unit="case"))
    print("| study | case | result |\n|---|---|---|")
    for case in found:
        print(f"| {case.study} | {case.name} | {case.problem or 'ok'} |")
    failed = sum(bool(case.problem) for case in found)
    print(f"{len(found) - failed} of {len(found)} hold.", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
