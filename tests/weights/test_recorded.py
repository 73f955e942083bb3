"""The record of a training run in a checkpoint folder."""

from pathlib import Path

import pytest

from latte_ms.weights.recorded import STATE, TrainingState, read_state, write_state

IDENTITY = {"network": {"depth": 2}, "diffusion": {"steps": 1000}, "vae": "folder"}


def test_record_is_read_back(tmp_path: Path) -> None:
    write_state(tmp_path, TrainingState(17, IDENTITY))
    state = read_state(str(tmp_path))
    assert state == TrainingState(17, IDENTITY)
    assert state.network == {"depth": 2}
    assert state.diffusion == {"steps": 1000}
    assert [file.name for file in tmp_path.iterdir()] == [STATE]


def test_a_run_without_diffusion(tmp_path: Path) -> None:
    write_state(tmp_path, TrainingState(1, {"network": {"depth": 2}}))
    state = read_state(tmp_path)
    assert state is not None
    assert state.diffusion is None


def test_other_paths_have_no_record(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    for path in (tmp_path, tmp_path / "x.pt", tmp_path / "nowhere"):
        assert read_state(path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"step": 1}',
        b'{"step": null, "identity": {}}',
        b'{"step": 1, "identity": 3}',
        b'{"step": 1, "identity": {"network": [2]}}',
        b'{"step": 1, "identity": {"diffusion": "linear"}}',
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged") as caught:
        read_state(tmp_path)
    assert str(tmp_path / STATE) in str(caught.value)
