"""The folder of a run: one run at a time, checked before anything that takes long."""

import subprocess
import sys
from pathlib import Path

import pytest

from latte_ms.runtime import Rank
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.run_folder import CHECKPOINTS, PREVIEWS, RunFolder
from latte_ms.training.snapshots import SNAPSHOTS

ROOT = Path(__file__).parents[2]


def run_folder(output: Path | str, rank: Rank = Rank()) -> RunFolder:  # noqa: B008 (frozen)
    return RunFolder(LoopConfig(output=str(output)), {}, rank)


@pytest.mark.parametrize("below", ["", "/run"])
def test_an_output_that_is_a_file_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=rf"`loop.output` must be a folder .*file{below}: "),
        run_folder(f"{tmp_path}/file{below}"),
    ):
        pass


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with run_folder(tmp_path / "new" / "run") as folder:
        assert (folder.start, folder.path.is_dir()) == (0, True)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS / ".0000001.12.removed").mkdir(parents=True)
    (tmp_path / CHECKPOINTS / ".0000002.12.partial").mkdir()
    (tmp_path / ".history.csv.12.partial").touch()
    (tmp_path / SNAPSHOTS / ".0000002.12.partial").mkdir(parents=True)
    (tmp_path / SNAPSHOTS / ".0000001.12.removed").mkdir()
    (tmp_path / PREVIEWS).mkdir()
    (tmp_path / PREVIEWS / ".0000002.mp4.12.partial").touch()
    with run_folder(tmp_path):
        pass
    folders = {CHECKPOINTS, SNAPSHOTS, PREVIEWS}
    assert {path.name for path in tmp_path.rglob("*")} == folders


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with run_folder("~/runs/one") as folder:
        assert folder.path == tmp_path / "runs" / "one"


def test_other_ranks_do_not_lock(tmp_path: Path) -> None:
    with run_folder(tmp_path, Rank(0, 2)), run_folder(tmp_path, Rank(1, 2)) as other:
        assert other.start == 0


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    code = "import sys; from tests.training.test_run_folder import run_folder\n"
    code += f"with run_folder({str(tmp_path)!r}): print('here', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        assert any(line == "here\n" for line in process.stdout)
        with (
            pytest.raises(
                ValueError, match=rf"`loop.output` .* is in use by process {process.pid} on \S+\. "
            ),
            run_folder(tmp_path),
        ):
            pass
        process.kill()
    assert (tmp_path / ".lock").exists()
    with run_folder(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()
