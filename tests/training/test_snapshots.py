"""Snapshots of averages: which of them a run keeps, and what the tool makes of them."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.training import snapshots
from latte_ms.training.snapshots import SNAPSHOTS
from latte_ms.weights.checksums import write_checksums
from latte_ms.weights.recorded import TrainingState, write_state
from tools import posthoc_ema


def write(run: Path, num_updates: int) -> Path:
    """A snapshot whose only array has the number of the update as its values."""
    folder = run / SNAPSHOTS / f"{num_updates:07d}"
    folder.mkdir(parents=True)
    array = np.full(3, num_updates, np.float32)
    tensors = weights.from_arrays({"final_layer.linear.bias": array})
    weights.write(folder / "sigma_rel_0.1.safetensors", {"": tensors})
    write_state(folder, TrainingState(num_updates, {}))
    write_checksums(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for number in (10, 20, 30):
        write(tmp_path / "run", number)
    return tmp_path / "run"


def tool(run: Path, target: Path, *options: str) -> int:
    return posthoc_ema.main([str(run), "--sigma-rel=0.1", f"--target={target}", *options])


def test_snapshots_of_later_updates_are_removed(run: Path, tmp_path: Path) -> None:
    """Where a run goes on from an earlier checkpoint, or starts anew."""
    folder = run / SNAPSHOTS
    snapshots.remove_after(folder, 20)
    assert list(snapshots.find(folder)) == [(10, 0.1), (20, 0.1)]
    assert sorted(path.name for path in folder.iterdir()) == ["0000010", "0000020"]
    snapshots.remove_after(folder, 0)
    assert list(folder.iterdir()) == []
    snapshots.remove_after(tmp_path / "none", 0)


def test_an_average_beyond_the_snapshots_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool(run, run / "ema", "--step=31") == 1
    message = "error: `--step` must be at most 30, that of the newest snapshot, got 31.\n"
    assert capsys.readouterr().err == message
    assert not (run / "ema").exists()
    assert tool(run, run / "ema", "--step=30") == 0
    stored = weights.read(run / "ema")["final_layer.linear.bias"]
    np.testing.assert_allclose(stored, 30.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "`--target` must not hold what is read"),
        ("..", "`--target` must not hold what is read"),
        (SNAPSHOTS, "`--target` must not hold what is read"),
        (f"{SNAPSHOTS}/0000010", "`--target` must not lie in"),
        (f"{SNAPSHOTS}/new", "`--target` must not lie in"),
    ],
)
def test_the_run_and_its_snapshots_are_never_replaced(
    run: Path, target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    assert tool(run, run / target, "--force") == 1
    assert message in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_a_target_in_the_run_is_replaced_by_force_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = run / "ema"
    assert tool(run, target) == 0
    assert tool(run, target) == 1
    expected = f"error: `--target` exists: {target}; give --force to replace it.\n"
    assert capsys.readouterr().err.endswith(expected)
    assert tool(run, target, "--force") == 0
