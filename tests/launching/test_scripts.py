"""What the scripts in `scripts/launch` start, and what they refuse."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from latte_ms.launching.command import COMMANDS
from scripts.launch import modelarts, one_machine, openi, several_machines, slurm
from tests.launching.test_machines import CLOUD, SLURM
from tests.processes import run_here

TRAIN = ["train", "--config", "a recipe.yaml", "seed=1"]


def started(main: Callable[[], object], *arguments: str) -> tuple[dict[str, str], list[str]]:
    """Options of msrun and the words after them that a script prints in a dry run."""
    done = run_here(main, "--workers", "8", "--dry-run", *arguments)
    assert done.returncode in (0, None), done.stderr
    words = shlex.split(done.stdout)
    assert words[1:3] == ["-m", "latte_ms.launching"]
    number = next(i for i, word in enumerate(words) if i > 2 and not word.startswith("--"))
    options = dict(word[2:].split("=") for word in words[3:number])
    return options, words[number:]


def test_one_machine() -> None:
    options, program = started(one_machine.main, "--port", "9000", "--bind-core", *TRAIN)
    assert options == {
        "worker_num": "8",
        "local_worker_num": "8",
        "master_addr": "127.0.0.1",
        "master_port": "9000",
        "node_rank": "0",
        "log_dir": "msrun_log",
        "cluster_time_out": "600",
        "bind_core": "True",
        "join": "True",
    }
    assert program == [str(COMMANDS / "train.py"), *TRAIN[1:], "runtime.distributed=true"]


def test_several_machines() -> None:
    machines = ["--machines", "4", "--index", "3", "--master", "10.0.0.1"]
    options, _ = started(several_machines.main, *machines, *TRAIN)
    assert (options["worker_num"], options["local_worker_num"]) == ("32", "8")
    assert (options["master_addr"], options["node_rank"]) == ("10.0.0.1", "3")


def test_slurm_and_clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**SLURM, **CLOUD}.items():
        monkeypatch.setenv(name, value)
    options, _ = started(slurm.main, *TRAIN)
    assert (options["worker_num"], options["node_rank"]) == ("24", "2")
    assert options["master_addr"] == "ascend07"
    urls = [f"--data_url={tmp_path}", "--train_url=obs://bucket/run", "--cache=/here"]
    options, program = started(modelarts.main, *urls, *TRAIN)
    assert (options["worker_num"], options["node_rank"]) == ("16", "1")
    assert options["master_addr"] == "w-0.job"
    assert options["log_dir"] == "/here/output/msrun_log"
    assert program[-3:-1] == [f"data.path={tmp_path}", "loop.output=/here/output"]
    _, program = started(modelarts.main, *urls, *TRAIN, "loop.output=mine")
    assert program[-3:-1] == ["loop.output=mine", f"data.path={tmp_path}"]
    _, program = started(openi.main, "--dataset=mine", *TRAIN)
    assert program[-3:-1] == ["data.path=C2NET/dataset/mine", "loop.output=C2NET/output"]


@pytest.mark.parametrize(
    ("program", "keys"),
    [
        ("train_autoencoder seed=1", ["data.path=/d", "loop.output=/o"]),
        ("encode seed=1", ["data.path=/d", "latent_cache.path=/o"]),
        ("encode caption_cache.path=/o/captions", ["data.path=/d"]),
        ("encode latent_cache.path=/o/a caption_cache.path=/o/b", ["data.path=/d"]),
        ("sample seed=1", ["output=/o"]),
        ("sample_t2v seed=1", ["output=/o"]),
        ("calc_metrics real=/d", []),
        ("FOLDER/train_mine.py seed=1", ["data.path=/d", "loop.output=/o"]),
        ("FOLDER/other.py seed=1", ["output=/o"]),
    ],
)
def test_a_program_gets_the_folders_of_a_cloud_under_its_own_keys(
    program: str, keys: list[str], tmp_path: Path
) -> None:
    name, *arguments = program.replace("FOLDER", str(tmp_path)).split()
    if name.endswith(".py"):
        Path(name).touch()
    urls = ["--data_url=/d", "--train_url=/o"]
    options, words = started(modelarts.main, *urls, name, *arguments)
    assert words[1:] == [*arguments, *keys, "runtime.distributed=true"]
    assert options["log_dir"] == "/o/msrun_log"


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (one_machine.main, ["--workers=0", *TRAIN], "`--workers` must be at least 1, got 0."),
        (
            one_machine.main,
            ["--workers=2", "--port=80", *TRAIN],
            "`--port` must be from 1024 to 65535",
        ),
        (
            one_machine.main,
            ["--workers=2", "--time-out=0", *TRAIN],
            "`--time-out` must be at least 1",
        ),
        (one_machine.main, ["--workers=2", "trains"], "the name of a command: 'trains'."),
        (
            one_machine.main,
            ["--workers=2", *TRAIN, "runtime.distributed=false"],
            "`runtime.distributed=false` must be left out",
        ),
        (
            several_machines.main,
            ["--machines=2", "--index=2", "--master=a", "--workers=2", *TRAIN],
            "index of this machine must be from 0 to 1, got 2.",
        ),
        (slurm.main, ["--workers=2", *TRAIN], "SLURM_NNODES is not set: start this by srun."),
        (openi.main, ["--workers=2", *TRAIN], "OpenI's package c2net is missing"),
        (
            modelarts.main,
            ["--workers=2", "--data_url=obs://videos", *TRAIN],
            "obs://videos needs the package moxing",
        ),
    ],
)
def test_what_is_wrong_is_named(
    main: Callable[[], object], arguments: list[str], message: str
) -> None:
    done = run_here(main, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
