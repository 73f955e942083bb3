"""Break training runs and see whether they go on bit for bit: `kill_training.py [STUDY ...]`.

    python tools/kill_training.py                      # all four studies
    python tools/kill_training.py moments --ranks 2 --count 30 --seed 0

moments     SIGKILL at random moments of a run in a process of its own, again and again; in the end
            weights, EMA, optimizer and history must equal those of an unbroken run. With --ranks,
            a rank or the launcher is killed, and all processes must end within a minute.
damage      a file of the newest checkpoint is cut, emptied, removed, or one of its bits flipped;
            the run must go on from the checkpoint before, to the files of an unbroken run.
operations  SIGKILL before each file operation of one checkpoint and the pruning after it; what is
            left must go on to the files of an unbroken run.
sizes       a limit on the size of files, from nothing to the largest file of a checkpoint; the run
            must end with status 2 and the path, and go on to the files of an unbroken run.

Prints one row per case. The exit status is 1 if any fails.
"""

import argparse
import random
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
from tools.damaged_checkpoints import damages
from tools.killed_saves import operations
from tools.run_differences import differences
from tools.tiny_runs import LAUNCHER, TinyRuns

_MORE = 6  # updates that a broken run still makes at the end
_DELAYS = (0.0, 3.0)  # seconds from the first update of a process to its end
_COUNTS = {"moments": 30, "damage": 20, "sizes": 20}


@dataclass(frozen=True)
class Case:
    """One broken run. `problem` is empty if everything is as it must be."""

    study: str
    name: str
    problem: str


def moments(runs: TinyRuns, count: int, seed: int) -> Iterator[Case]:
    """Kill one run `count` times at random moments after an update; then let it end."""
    rng, output = random.Random(seed), runs.folder / "broken"
    for _ in range(count):
        delay = rng.uniform(*_DELAYS)
        victim = rng.randrange(LAUNCHER, runs.ranks) if runs.ranks > 1 else 0
        with runs.started(output, 10**9) as run:
            run.wait_for_updates()
            time.sleep(delay)
            problem = run.kill(victim)
        name = "launcher" if victim == LAUNCHER else f"rank {victim}"
        done = newest(output)
        yield Case("moments", f"{name}, {delay:.2f} s, update {done}", problem or not_whole(output))
    yield Case("moments", "the end", ended_alike(output, runs))


def sizes(runs: TinyRuns, count: int) -> Iterator[Case]:
    """Limit the size of files to `count` values below what a run needs; then take the limit off."""
    output = runs.folder / "limited"
    runs.finish(output, _MORE)
    largest = max(path.stat().st_size for path in output.rglob("*.safetensors"))
    for i in range(count):
        limit = largest * i // count
        with runs.started(output, 2 * _MORE, f"--file-limit={limit}") as run:
            status = run.wait()
        yield Case("sizes", f"{limit} bytes", refusal(status, run.text, output))
    yield Case("sizes", "no limit", ended_alike(output, runs))


def refusal(status: int, text: str, output: Path) -> str:
    """What is wrong with the end of a run that had no room."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if status != 2 or len(lines) != 1 or "Traceback" in text:
        return f"status {status}: {text.strip().splitlines()[-1:]}"
    if str(output) not in lines[0] or "run the same command again" not in lines[0]:
        return lines[0]
    hidden = [path.name for path in output.rglob(".*")]
    return f"left: {hidden}" if hidden else not_whole(output)


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


def ended_alike(output: Path, runs: TinyRuns) -> str:
    """Let a broken run end, and an unbroken one of the same length; says how they differ."""
    max_steps, unbroken = newest(output) + _MORE, runs.folder / "unbroken"
    for path in (output, unbroken):
        runs.finish(path, max_steps)
    return differences(output, unbroken)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    studies = ("moments", "damage", "operations", "sizes")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(studies))
    parser.add_argument("--count", type=int, help=f"of cases (default {_COUNTS})")
    parser.add_argument("--ranks", type=int, default=1, help="processes of the run of `moments`")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damages")
    args = parser.parse_args()
    unknown = set(args.studies) - set(studies)
    if unknown or (args.count is not None and args.count < 1) or args.ranks < 1:
        parser.error(f"STUDY must be of {', '.join(studies)}, --count and --ranks at least 1")
    failed = 0
    for study in args.studies or studies:
        with tempfile.TemporaryDirectory() as name:
            failed += report(run(study, Path(name), args))
    return int(failed > 0)


def run(study: str, folder: Path, args: argparse.Namespace) -> Iterator[Case]:
    count = args.count or _COUNTS.get(study, 0)
    if study == "moments":
        return moments(TinyRuns(folder, args.ranks), count, args.seed)
    if study == "sizes":
        return sizes(TinyRuns(folder), count)
    found = (
        operations(folder) if study == "operations" else damages(TinyRuns(folder), count, args.seed)
    )
    return (Case(study, name, problem) for name, problem in found)


def report(cases: Iterator[Case]) -> int:
    """Print each case with its result, and how many hold; returns how many fail."""
    found = list(tqdm(cases, desc="cases", unit="case"))
    print("| study | case | result |\n|---|---|---|")
    for case in found:
        print(f"| {case.study} | {case.name} | {case.problem or 'ok'} |")
    failed = sum(bool(case.problem) for case in found)
    print(f"{len(found) - failed} of {len(found)} hold.", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
