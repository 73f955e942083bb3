"""What a script prints, and what becomes of its work where nothing can be printed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from latte_ms.terminal import print_result, say

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "shapes" / "sample.yaml"
SMALL = ["classes=[1]", "batch_size=1", "sampler.num_steps=2", "formats=[png]"]
FILES = ["1_seed0.png", "contact_sheet.png", "samples.json"]


def script(
    name: str, arguments: list[object], redirection: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A script as a shell starts it, with MindSpore's own settings."""
    variables = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
    command = [sys.executable, "-m", f"scripts.{name}", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env=variables | {"PYTHONPATH": str(ROOT)} | environment,
    )


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_can_be_printed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say("a video")
    say("a mistake", error=True)
    print_result("a: 1\n")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a video\na: 1\n", "a mistake\n")


def test_a_result_that_cannot_be_printed_is_an_error() -> None:
    done = script("sample", ["--config", RECIPE, "--dry-run"], "> /dev/full")
    assert done.returncode == 2
    assert done.stderr == ("error: Standard output cannot be written: No space left on device.\n")


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["> /dev/full", "2> /dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_work_is_not_lost_where_nothing_can_be_printed(redirection: str, tmp_path: Path) -> None:
    done = script("sample", ["--config", RECIPE, *SMALL, f"output={tmp_path / 'out'}"], redirection)
    assert done.returncode == 0
    assert written(tmp_path / "out") == FILES
    if redirection == "> /dev/full":
        assert "Standard output cannot be written: No space left on device." in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2> /dev/full", ">&- 2>&-"])
def test_a_mistake_that_cannot_be_printed_has_its_status(redirection: str) -> None:
    assert script("sample", ["--config", RECIPE, "num_videos=-1"], redirection).returncode == 2


@pytest.mark.slow
def test_a_sampling_prints_one_line_and_says_where_it_runs(tmp_path: Path) -> None:
    """Fusion compiles kernels here: AKG's lines and MindSpore's warnings stay out."""
    arguments = ["--config", RECIPE, *SMALL, f"output={tmp_path}", "runtime.jit_level=O1"]
    done = script("sample", arguments)
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert line.startswith("1 videos in ")
    assert done.stderr.startswith("INFO: Running on ")
    assert done.stderr.count("\n") == 1


PYTHON = """
import mindspore as ms

from latte_ms import Latte, LatteConfig
from latte_ms.runtime import RuntimeConfig, setup

setup(RuntimeConfig())
setup(RuntimeConfig(jit_level="O0"))
"""


def test_python_code_that_imports_mindspore_first_is_quiet() -> None:
    variables = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
    command = [sys.executable, "-c", PYTHON]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Letters that an encoding lacks.


@pytest.mark.slow
def test_any_letter_in_a_path_under_the_locale_c(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs" / "shapes" / "weights", tmp_path / "poids é")
    folder, output = tmp_path / "poids é", tmp_path / "vidéo"
    networks = [f"weights={folder / 'latte'}", f"vae={folder / 'vae'}", f"output={output}"]
    done = script("sample", ["--config", RECIPE, *SMALL, *networks], LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert written(output) == FILES
    assert "vidéo" in done.stdout


@pytest.mark.slow
def test_a_letter_that_python_cannot_express_is_named(tmp_path: Path) -> None:
    """Without its UTF-8 mode, in an override and in a recipe."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"base: {RECIPE}\noutput: {tmp_path}/é\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    calls = (["--config", RECIPE, f"output={tmp_path}/é"], ["--config", path])
    for arguments in calls:
        done = script("sample", arguments, **plain)
        assert done.returncode == 2
        assert "set the environment variable PYTHONUTF8=1." in done.stderr
        assert done.stderr.count("\n") == 1
