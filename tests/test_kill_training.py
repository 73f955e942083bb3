"""Broken training runs go on bit for bit: a few of the cases of `tools/kill_training.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.damaged_checkpoints import damages
from tools.kill_training import moments, sizes
from tools.tiny_runs import TinyRuns

ROOT = Path(__file__).parents[1]

# In a process of its own, which has compiled nothing before it forks.
OPERATIONS = """
import sys
from pathlib import Path
from tools.killed_saves import operations
found = dict(operations(Path(sys.argv[1]), stride=int(sys.argv[2])))
print(len(found), {name: problem for name, problem in found.items() if problem})
"""


def killed_operations(folder: Path, stride: int) -> tuple[int, str]:
    """The number of saves that were killed, and what is wrong after which."""
    command = [sys.executable, "-c", OPERATIONS, str(folder), str(stride)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    count, _, problems = done.stdout.strip().rpartition("\n")[2].partition(" ")
    assert count.isdecimal(), done.stderr
    return int(count), problems


@pytest.mark.slow
def test_a_save_killed_at_some_operations_goes_on(tmp_path: Path) -> None:
    count, problems = killed_operations(tmp_path, 100)
    assert count >= 2
    assert problems == "{}"


@pytest.mark.extended
def test_a_save_killed_at_many_operations_goes_on(tmp_path: Path) -> None:
    count, problems = killed_operations(tmp_path, 25)
    assert count >= 11
    assert problems == "{}"


@pytest.mark.parametrize(
    ("ranks", "count"),
    [pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 1, marks=pytest.mark.extended)],
)
def test_runs_killed_at_random_moments_go_on(tmp_path: Path, ranks: int, count: int) -> None:
    cases = list(moments(TinyRuns(tmp_path, ranks), count, seed=1))
    assert len(cases) == count + 1
    assert [case for case in cases if case.problem] == []


@pytest.mark.slow
def test_runs_with_a_damaged_checkpoint_go_on(tmp_path: Path) -> None:
    cases = dict(damages(TinyRuns(tmp_path), 5, seed=1))
    assert len(cases) == 5
    assert {name: problem for name, problem in cases.items() if problem} == {}


@pytest.mark.slow
def test_runs_without_room_go_on(tmp_path: Path) -> None:
    assert [case for case in sizes(TinyRuns(tmp_path), 2) if case.problem] == []
