"""Checkpoints: complete or absent, strict, and readable as weights."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file

from latte_ms import weights
from latte_ms.training import checkpoint
from latte_ms.training.optimizer import step_factors
from latte_ms.transformer.latte import Latte
from latte_ms.weights.checksums import CHECKSUMS


def identity_of(trainer: object, **changes: object) -> dict[str, object]:
    return {"network": dataclasses.asdict(trainer.network.config) | changes, "chain": {"steps": 9}}


@pytest.fixture
def stepped(trainer: object, batch_of: Callable[..., tuple[np.ndarray, ...]]) -> object:
    """The trainer after one update, so that weights, EMA and moments all differ."""
    trainer.step.update_from_batches(step_factors(trainer.optimizer, 5), [batch_of(0, 2)])
    return trainer


def save(trainer: object, folder: Path, done: int, keep: int = 0) -> Path:
    return checkpoint.save(folder, trainer.network, trainer.step, done, identity_of(trainer), keep)


def test_everything_comes_back(stepped: object, tmp_path: Path) -> None:
    saved = stepped.state()
    path = save(stepped, tmp_path, 17)
    assert path == checkpoint.latest(tmp_path) == checkpoint.path_of(tmp_path, 17)
    stepped.reset()
    assert not np.array_equal(
        stepped.state()["blocks.0.mlp.fc1.weight"], saved["blocks.0.mlp.fc1.weight"]
    )
    done = checkpoint.resume(path, stepped.network, stepped.step, identity_of(stepped))
    assert done == 17
    loaded = stepped.state()
    assert all(np.array_equal(loaded[name], saved[name]) for name in saved)
    assert {str(a.dtype) for a in loaded.values()} == {"float32"}


def test_incomplete_folders_are_ignored_and_removed(stepped: object, tmp_path: Path) -> None:
    save(stepped, tmp_path, 2)
    for name in (".0000003.partial", "0000004", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / checkpoint.STATE).write_text("{}")
    (tmp_path / ".0000003.partial" / checkpoint.STATE).write_text("{}")
    assert checkpoint.latest(tmp_path) == tmp_path / "0000002"
    save(stepped, tmp_path, 3)
    assert not (tmp_path / ".0000003.partial").exists()
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_a_save_that_fails_leaves_the_older_checkpoint(
    stepped: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(stepped, tmp_path, 2)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(weights, "write", disk_full)
        with pytest.raises(OSError, match="No space"):
            save(stepped, tmp_path, 3)
    assert checkpoint.latest(tmp_path) == tmp_path / "0000002"
    checkpoint.resume(tmp_path / "0000002", stepped.network, stepped.step, identity_of(stepped))
    save(stepped, tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000002", "0000003"]


def test_only_the_newest_checkpoints_remain(stepped: object, tmp_path: Path) -> None:
    for done in (1, 2, 10_000_000, 9_999_999):  # more digits than the name's seven
        save(stepped, tmp_path, done, keep=2 if done > 2 else 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10000000", "9999999"]
    assert checkpoint.latest(tmp_path) == tmp_path / "10000000"


def test_another_network_is_refused_and_its_keys_are_named(stepped: object, tmp_path: Path) -> None:
    path = save(stepped, tmp_path, 1)
    before = stepped.state()
    other = identity_of(stepped, hidden_size=32, depth=4)
    with pytest.raises(ValueError, match=r"another run") as caught:
        checkpoint.resume(path, stepped.network, stepped.step, other)
    message = str(caught.value)
    assert "network.hidden_size was 16, is 32" in message
    assert "network.depth was 2, is 4" in message
    assert "num_frames" not in message
    after = stepped.state()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def chosen(trainer: object, folder: Path) -> int:
    return checkpoint.newest_intact(folder, identity_of(trainer))


_FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", checkpoint.STATE)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in _FILES for damage in ("bit", "cut", "missing")),
        *((CHECKSUMS, damage) for damage in ("bit", "cut")),
        ("every file", "missing"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_an_older_one_is_used(
    stepped: object, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    save(stepped, tmp_path, 1)
    newest = save(stepped, tmp_path, 2)
    for file in list(newest.iterdir()) if name == "every file" else [newest / name]:
        spoil(file, damage)
    with caplog.at_level(logging.WARNING):
        assert chosen(stepped, tmp_path) == 1
    assert str(newest) in caplog.text
    assert f"the run goes on from {tmp_path / '0000001'}" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000001", "0000002.damaged"]
    assert chosen(stepped, tmp_path) == 1


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "bit":
        content[len(content) // 2] ^= 1
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "cut" else content)


def test_where_no_checkpoint_is_whole_the_run_does_not_start_anew(
    stepped: object, tmp_path: Path
) -> None:
    for done in (1, 2):
        spoil(save(stepped, tmp_path, done) / checkpoint.MODEL, "bit")
    with pytest.raises(ValueError, match=r"no intact checkpoint to go on from") as caught:
        chosen(stepped, tmp_path)
    assert all(f"000000{i}/model.safetensors is damaged" in str(caught.value) for i in (1, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000001", "0000002"]
    assert chosen(stepped, tmp_path / "nowhere") == 0


def test_another_run_keeps_its_damaged_checkpoint(stepped: object, tmp_path: Path) -> None:
    save(stepped, tmp_path, 1)
    spoil(save(stepped, tmp_path, 2) / checkpoint.MODEL, "cut")
    with pytest.raises(ValueError, match="another run"):
        checkpoint.newest_intact(tmp_path, identity_of(stepped, depth=4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000001", "0000002"]


@pytest.mark.parametrize(
    "step", ["1e999", "7", "-2", "2.0", "true", '"2"', "null", "[2]", "1" * 5000]
)
def test_a_step_that_does_not_fit_is_damage(stepped: object, tmp_path: Path, step: str) -> None:
    """Also in a checkpoint of an earlier version, which has no checksums."""
    save(stepped, tmp_path, 1)
    path = save(stepped, tmp_path, 2)
    (path / CHECKSUMS).unlink()
    assert chosen(stepped, tmp_path) == 2
    text = (path / checkpoint.STATE).read_text()
    (path / checkpoint.STATE).write_text(text.replace('"step": 2', f'"step": {step}'))
    with pytest.raises(ValueError, match=r"0000002/state\.json is damaged"):
        checkpoint.check_intact(path)
    assert chosen(stepped, tmp_path) == 1


def test_a_cut_file_of_an_earlier_version_is_damage(stepped: object, tmp_path: Path) -> None:
    save(stepped, tmp_path, 1)
    path = save(stepped, tmp_path, 2)
    (path / CHECKSUMS).unlink()
    spoil(path / checkpoint.EMA, "cut")
    assert chosen(stepped, tmp_path) == 1


def test_what_an_earlier_version_left_while_pruning_is_removed(
    stepped: object, tmp_path: Path
) -> None:
    for done in (1, 2, 3):
        save(stepped, tmp_path, done)
    (tmp_path / "0000001" / checkpoint.STATE).unlink()
    shutil.rmtree(tmp_path / "0000002")
    save(stepped, tmp_path, 4, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000003", "0000004"]


def test_flipped_bits_do_not_load_as_weights(stepped: object, tmp_path: Path) -> None:
    path = save(stepped, tmp_path, 1)
    spoil(path / checkpoint.EMA, "bit")
    network = Latte(stepped.network.config, seed=None)
    with pytest.raises(weights.WeightError, match=r"ema\.safetensors is damaged"):
        weights.load(network, path, "ema")
    weights.load(network, path, "model")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"step": null, "identity": {}}'])
def test_a_damaged_state_is_named(stepped: object, tmp_path: Path, text: str) -> None:
    path = save(stepped, tmp_path, 1)
    (path / checkpoint.STATE).write_text(text)
    with pytest.raises(ValueError, match=r"0000001/state.json is damaged"):
        checkpoint.resume(path, stepped.network, stepped.step, identity_of(stepped))


def test_a_damaged_optimizer_file_is_named(stepped: object, tmp_path: Path) -> None:
    path = save(stepped, tmp_path, 1)
    file = path / checkpoint.OPTIMIZER
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"optimizer\.safetensors"):
        checkpoint.resume(path, stepped.network, stepped.step, identity_of(stepped))


def test_a_tensor_of_another_shape_is_named(stepped: object, tmp_path: Path) -> None:
    path = save(stepped, tmp_path, 1)
    file, name = path / checkpoint.OPTIMIZER, "adam_first.blocks.0.mlp.fc1.weight"
    (path / CHECKSUMS).unlink()
    stored = dict(weights.read(file))
    save_file({**stored, name: stored[name][:, :-1].copy()}, file)
    message = rf"optimizer\.safetensors: {name} must be \(64, 16\), got \(64, 15\)"
    with pytest.raises(ValueError, match=message):
        checkpoint.resume(path, stepped.network, stepped.step, identity_of(stepped))


@pytest.mark.parametrize(
    ("before", "after", "start", "expected"),
    [
        (False, True, 2.0**16, 2.0**16),  # a run in float32 goes on in float16
        (True, False, 1.0, 1.0),
        (True, True, 2.0**16, 2.0**9),
        (False, False, 1.0, 1.0),
    ],
)
def test_a_loss_scale_is_that_of_the_precision(
    new_trainer: type, tmp_path: Path, before: bool, after: bool, start: float, expected: float
) -> None:
    first = new_trainer(scale_loss=before)
    if before:
        first.step.state["loss_scale"].set_data(Tensor(np.float32(2.0**9)))
    path = save(first, tmp_path, 1)
    second = new_trainer(scale_loss=after)
    assert second.step.state["loss_scale"].asnumpy() == start
    checkpoint.resume(path, second.network, second.step, identity_of(second))
    assert second.step.state["loss_scale"].asnumpy() == expected


def test_weights_and_ema_load_as_any_others(stepped: object, tmp_path: Path) -> None:
    path = save(stepped, tmp_path, 1)
    network = Latte(stepped.network.config, seed=None)
    state = stepped.state()
    for entry, prefix in (("ema", "ema."), ("model", "")):
        weights.load(network, path, entry)
        for name, parameter in network.parameters_and_names():
            if parameter.requires_grad:
                np.testing.assert_array_equal(parameter.asnumpy(), state[f"{prefix}{name}"])
    assert not np.array_equal(
        state["ema.blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc1.weight"]
    )
    names = set(weights.read(path, "model"))
    assert "blocks.0.attn.qkv.weight" in names, "names on disk are the reference's"
    state_file = json.loads((path / checkpoint.STATE).read_text())
    assert state_file["step"] == 1
