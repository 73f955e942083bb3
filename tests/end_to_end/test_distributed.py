"""Data-parallel training under msrun on the CPU: two ranks give the result of one process."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from latte_ms import weights
from latte_ms.training.history import read_history
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.weights.pretrained import save_pretrained
from tests.processes import lives

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    """msrun starts whatever `python` is first on the path."""
    first = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    joined = {key: os.pathsep.join([v, os.environ.get(key, "")]) for key, v in first.items()}
    return {**os.environ, **joined}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(script: str, arguments: list[str], logs: Path, ranks: int = 2) -> subprocess.Popen[str]:
    """`msrun` with a worker per rank; their output goes to files in `logs`."""
    launcher = Path(sys.executable).with_name("msrun")
    command = [
        str(launcher),
        f"--worker_num={ranks}",
        f"--local_worker_num={ranks}",
        f"--master_port={free_port()}",
        f"--log_dir={logs}",
        "--join=True",
        str(ROOT / "scripts" / script),
        *arguments,
        "runtime.distributed=true",
    ]
    return subprocess.Popen(
        command,
        env=environment(),
        cwd=logs.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def logs_of(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in folder.glob("*.log"))


def train_alone(arguments: list[str], folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments]
    subprocess.run(command, env=environment(), cwd=folder, check=True, timeout=600)


def largest_difference(ours: Path, theirs: Path, entry: str) -> float:
    first, second = weights.read(ours, entry), weights.read(theirs, entry)
    assert set(first) == set(second)
    return max(
        float(np.abs(first[name] - second[name]).max() / max(np.abs(second[name]).max(), 1e-3))
        for name in second
    )


def largest_of_states(ours: Path, theirs: Path) -> float:
    """Largest difference of moments and counts, relative to the largest value of each array."""
    first, second = (load_file(path / "optimizer.safetensors") for path in (ours, theirs))
    assert first.keys() == second.keys()
    assert all(first[name].shape == second[name].shape for name in second)
    return max(
        float(np.abs(first[name] - second[name]).max() / max(np.abs(second[name]).max(), 1e-8))
        for name in second
    )


def train_together(arguments: list[str], logs: Path, ranks: int = 2) -> None:
    process = start("train.py", arguments, logs, ranks)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output + logs_of(logs)


LAST = Path("checkpoints", "0000003")


@pytest.fixture(scope="module")
def by_two_ranks(train_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three updates of two ranks that share nothing but gradients."""
    folder = tmp_path_factory.mktemp("two_ranks")
    options = [*train_arguments, "loop.batch_size=1", f"loop.output={folder / 'run'}"]
    train_together(options, folder / "logs")
    return folder / "run"


def assert_same_run(ours: Path, theirs: Path, bound: float) -> None:
    """Weights, EMA and rows of the history."""
    for entry in ("model", "ema"):
        assert largest_difference(ours / LAST, theirs / LAST, entry) <= bound
    for row, expected in zip(
        *(read_history(f / "history.csv") for f in (ours, theirs)), strict=True
    ):
        for column in ("step", "loss", "mse", "grad_norm", "learning_rate"):
            assert row[column] == pytest.approx(expected[column], rel=bound)


def assert_same_states(ours: Path, theirs: Path) -> None:
    for entry in ("model", "ema"):
        assert largest_difference(ours / LAST, theirs / LAST, entry) <= 1e-5
    assert largest_of_states(ours / LAST, theirs / LAST) <= 1e-5


def test_states_divided_over_ranks_are_those_of_whole_ones(
    train_arguments: list[str], by_two_ranks: Path, tmp_path: Path
) -> None:
    """Checkpoints are whole: one process goes on from that of two ranks, and ends alike."""
    options = [*train_arguments, f"loop.output={tmp_path / 'run'}"]
    divide = ["loop.batch_size=1", "optimizer.shard_states=true"]
    train_together([*options, *divide, "loop.max_steps=2"], tmp_path / "logs")
    train_alone([*options, "loop.batch_size=2"], tmp_path)
    assert_same_states(tmp_path / "run", by_two_ranks)


@pytest.mark.extended
def test_states_divided_over_ranks_are_resumed_by_ranks(
    train_arguments: list[str], by_two_ranks: Path, tmp_path: Path
) -> None:
    options = [*train_arguments, f"loop.output={tmp_path / 'run'}"]
    options += ["loop.batch_size=1", "optimizer.shard_states=true"]
    for steps in (2, 3):
        train_together([*options, f"loop.max_steps={steps}"], tmp_path / f"logs{steps}")
    assert_same_states(tmp_path / "run", by_two_ranks)


@pytest.fixture
def start_weights(sizes: dict[str, object], tmp_path: Path) -> Path:
    """Weights none of which is zero: in a new network every block is the identity."""
    fields = {**sizes, "depth": 4, "conditioning": "class", "num_classes": 8, "learn_sigma": False}
    network = Latte(LatteConfig(**fields), seed=0)  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    for parameter in network.trainable_params():
        noise = 0.1 * rng.standard_normal(parameter.shape, np.float32)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    path = tmp_path / "start.safetensors"
    weights.save(network, path)
    return path


def test_ranks_that_divide_each_clip_train_the_network_of_one_process(
    train_arguments: list[str], start_weights: Path, tmp_path: Path
) -> None:
    """Each holds 2 of 4 frames, and in temporal blocks 8 of 16 tokens."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    options = [*train_arguments, f"initial_weights={start_weights}", "network.depth=4"]
    train_together([*options, f"loop.output={both}", "sequence_parallel=2"], tmp_path / "logs")
    train_alone([*options, f"loop.output={alone}"], tmp_path)
    assert_same_run(both, alone, 1e-5)


@pytest.mark.extended
def test_four_ranks_in_two_groups_with_all_that_saves_memory(
    train_arguments: list[str], start_weights: Path, tmp_path: Path
) -> None:
    """Clips divided in groups of two, divided states, accumulation and recomputed blocks at once.

    One process goes on from the checkpoint of the four ranks, and ends as it does alone.
    """
    mixed, alone = tmp_path / "mixed", tmp_path / "alone"
    options = [*train_arguments, f"initial_weights={start_weights}", "network.depth=4"]
    divide = ["sequence_parallel=2", "optimizer.shard_states=true", "recompute=2"]
    divide += ["loop.batch_size=1", "loop.accumulate=2", "loop.max_steps=2"]
    train_together([*options, f"loop.output={mixed}", *divide], tmp_path / "logs", ranks=4)
    train_alone([*options, f"loop.output={mixed}", "loop.batch_size=4"], tmp_path)
    train_alone([*options, f"loop.output={alone}", "loop.batch_size=4"], tmp_path)
    assert_same_run(mixed, alone, 1e-5)
    assert_same_states(mixed, alone)


@pytest.mark.extended
def test_two_ranks_train_the_adapter_of_one_process(
    train_arguments: list[str], start_weights: Path, tmp_path: Path
) -> None:
    """LoRA: matrices, their average, and the file for pipelines."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    options = [*train_arguments, f"initial_weights={start_weights}", "network.depth=4"]
    options += ["lora.rank=2", "lora.targets=[attention,mlp]"]
    train_together([*options, "loop.batch_size=1", f"loop.output={both}"], tmp_path / "logs")
    train_alone([*options, "loop.batch_size=2", f"loop.output={alone}"], tmp_path)
    assert_same_run(both, alone, 1e-5)
    ours, theirs = (load_file(path / "pytorch_lora_weights.safetensors") for path in (both, alone))
    assert ours.keys() == theirs.keys()
    for name, matrix in theirs.items():
        bound = 1e-5 * max(float(np.abs(matrix).max()), 1e-3)
        np.testing.assert_allclose(ours[name], matrix, rtol=0, atol=bound, err_msg=name)


@pytest.fixture
def t2v_arguments(arguments: Any, videos: Path, vae: Path, tmp_path: Path) -> list[str]:
    """Training on captions, from weights none of which is zero."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    sizes |= {"patch_size": 2, "in_channels": 4, "out_channels": 4, "caption_channels": 64}
    fields = LatteT2VConfig(**sizes, cross_attention_dim=16, video_length=4)  # type: ignore[arg-type]
    network, rng = LatteT2V(fields, seed=0), np.random.default_rng(5)
    for parameter in network.trainable_params():
        noise = 0.1 * rng.standard_normal(parameter.shape, np.float32)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    save_pretrained(network, tmp_path / "start")
    return arguments(  # type: ignore[no-any-return]
        "train_t2v.yaml",
        data__path=videos,
        data__image_size=32,
        data__num_frames=4,
        vae=vae,
        caption_dropout=0.5,
        initial_weights=tmp_path / "start",
        optimizer__warmup_steps=1,
        loop__max_steps=3,
        loop__batch_size=2,
        loop__log_every=1,
        loop__save_every=3,
        **{f"network__{name}": value for name, value in sizes.items()},
    )


@pytest.mark.extended
def test_ranks_that_divide_captioned_clips_train_the_network_of_one_process(
    t2v_arguments: list[str], tmp_path: Path
) -> None:
    """As above, for `LatteT2V`."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    train_together(
        [*t2v_arguments, f"loop.output={both}", "sequence_parallel=2"], tmp_path / "logs"
    )
    train_alone([*t2v_arguments, f"loop.output={alone}"], tmp_path)
    assert_same_run(both, alone, 1e-5)


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.extended)])
def test_two_ranks_train_the_same_network_as_one_process(
    train_arguments: list[str], by_two_ranks: Path, tmp_path: Path, accumulate: int
) -> None:
    both, alone = by_two_ranks, tmp_path / "alone"
    if accumulate > 1:
        both = tmp_path / "both"
        options = [*train_arguments, f"loop.accumulate={accumulate}", "loop.batch_size=1"]
        train_together([*options, f"loop.output={both}"], tmp_path / "logs")
    single = f"loop.batch_size={2 * accumulate}"
    train_alone([*train_arguments, f"loop.output={alone}", single], tmp_path)
    assert_same_run(both, alone, 1e-4)
    assert {p.name for p in (both / LAST).iterdir()} == {p.name for p in (alone / LAST).iterdir()}
    assert [p.name for p in (both / "checkpoints").iterdir()] == ["0000003"]


def descendants(ancestor: int) -> dict[int, str]:
    """Process id -> role of msrun's scheduler and workers."""
    return {pid: env["MS_ROLE"] for pid, env in children(ancestor) if "MS_ROLE" in env}


def worker(rank: int, ancestor: int) -> int:
    """The process id of a rank among the descendants of msrun."""
    for pid, env in children(ancestor):
        if (env.get("MS_ROLE"), env.get("RANK_ID")) == ("MS_WORKER", str(rank)):
            return pid
    raise AssertionError(f"rank {rank} is not running")


def children(ancestor: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Process id and environment of the children of a process that run Python."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            program = (folder / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if parent == ancestor and b"python" in program:
            yield int(folder.name), dict(part.partition("=")[::2] for part in variables)


def wait_for_rows(output: Path, count: int, process: "subprocess.Popen[str]", logs: Path) -> None:
    """Return when the history has `count` rows."""
    deadline = time.monotonic() + 300
    while len(read_history(output / "history.csv")) < count:
        assert process.poll() is None, logs_of(logs)
        assert time.monotonic() < deadline, logs_of(logs)
        time.sleep(0.5)


def survivors(pids: list[int], seconds: float) -> list[int]:
    """The processes that still run after `seconds`; these are killed."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def test_ranks_count_together_what_they_encode(train_arguments: list[str], tmp_path: Path) -> None:
    """Also where nothing is left for the first rank, which says it."""
    folder = tmp_path / "latents"
    cache = [f"latent_cache.path={folder}", "latent_cache.videos_per_file=1"]
    for missing in ("*.safetensors", "latents-000001.safetensors"):
        expected = {path.name: path.read_bytes() for path in folder.glob("latents-*")}
        for path in folder.glob(missing):
            path.unlink()
        logs = tmp_path / f"logs_{len(missing)}"
        process = start("encode.py", [*train_arguments, *cache], logs)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output + logs_of(logs)
        (rate,) = re.findall(r" MB; (.*)", logs_of(logs))
        assert rate.endswith(" clips/s on 2 ranks")
        assert all((folder / name).read_bytes() == data for name, data in expected.items())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_all_ranks_stop_when_any_gets_the_signal_or_msrun_is_killed(
    train_arguments: list[str], tmp_path: Path
) -> None:
    output, logs = tmp_path / "run", tmp_path / "logs"
    arguments = [*train_arguments, f"loop.output={output}", "loop.batch_size=1"]
    process = start("train.py", [*arguments, "loop.max_steps=100000"], logs)
    wait_for_rows(output, 3, process, logs)
    os.kill(worker(1, process.pid), signal.SIGTERM)
    text, _ = process.communicate(timeout=300)
    assert process.returncode != 0, "a stopped job must not look like a finished one"
    (checkpoint,) = (output / "checkpoints").iterdir()
    assert int(checkpoint.name) == len(read_history(output / "history.csv")), text + logs_of(logs)
    # The same command resumes from there. It saves and ends, too, when msrun is killed.
    again = start("train.py", [*arguments, "loop.max_steps=100000"], tmp_path / "again")
    wait_for_rows(output, int(checkpoint.name) + 2, again, tmp_path / "again")
    processes = descendants(again.pid)
    assert sorted(processes.values()) == ["MS_SCHED", "MS_WORKER", "MS_WORKER"]
    again.kill()
    assert survivors(list(processes), 60) == [], logs_of(tmp_path / "again")
    assert "Traceback" not in logs_of(tmp_path / "again")
    newest = max((output / "checkpoints").iterdir())
    assert int(newest.name) == len(read_history(output / "history.csv")) > int(checkpoint.name)
    assert not (output / ".lock").exists()
