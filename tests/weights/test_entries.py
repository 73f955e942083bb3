"""Entries and the prefixes that training wrappers leave in names."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.entries import split_entries


def written(path: Path, **entries: dict[str, float]) -> Path:
    weights.write(
        path,
        {
            entry.strip("_"): from_arrays({k: np.full(2, v, np.float32) for k, v in names.items()})
            for entry, names in entries.items()
        },
    )
    return path


def first(path: Path, entry: str | None) -> dict[str, float]:
    return {name: float(array[0]) for name, array in weights.read(path, entry).items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."]
)
def test_wrapper_prefixes_are_removed(tmp_path: Path, prefix: str) -> None:
    names = {f"{prefix}blocks.0.mlp.fc1.weight": 1.0, f"{prefix}pos_embed": 2.0}
    plain = {"blocks.0.mlp.fc1.weight": 1.0, "pos_embed": 2.0}
    for suffix in (".pt", ".safetensors"):
        assert first(written(tmp_path / f"bare{suffix}", _=names), "ema") == plain
    assert first(written(tmp_path / "state.pt", state_dict=names), "model") == plain
    if prefix != "model.":
        assert first(written(tmp_path / "both.pt", ema=names, model={"x": 3.0}), "ema") == plain


def test_compiled_inner_modules(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", ema={"blocks.0._orig_mod.mlp.fc1.bias": 1.0})
    assert first(path, "ema") == {"blocks.0.mlp.fc1.bias": 1.0}


def test_lightning_checkpoint_is_split_by_attribute(tmp_path: Path) -> None:
    """Lightning's files end in .ckpt too, and hold model, EMA and VAE in one dictionary."""
    names = {"model._orig_mod.a": 1.0, "ema.a": 2.0, "vae.encoder.conv_in.weight": 3.0}
    path = written(tmp_path / "x.pt", state_dict=names).rename(tmp_path / "lightning.ckpt")
    assert first(path, "model") == {"a": 1.0}
    assert first(path, "ema") == {"a": 2.0}
    with pytest.raises(WeightError, match="entries `model`, `ema`, `vae`"):
        weights.read(path, "unknown")


def test_wrong_entry_lists_the_entries(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", ema={"a": 1.0})
    with pytest.raises(WeightError, match=r"`entry` \(='model'\) must be one of the entries `ema`"):
        weights.read(path, "model")
    assert first(path, None) == {"a": 1.0}
    both = written(tmp_path / "y.pt", ema={"a": 1.0}, model={"a": 2.0})
    with pytest.raises(WeightError, match="must be one of the entries `ema`, `model`"):
        weights.read(both)


def test_a_tensor_beside_the_networks_is_no_network() -> None:
    """Counters and states of generators are tensors too."""
    one, step = np.ones(2), np.array(7)
    root = {"model": {"a": one}, "ema": {"a": one}, "step": step, "optimizer": {"moment": one}}
    found = split_entries(root, np.ndarray)
    assert list(found) == ["model", "ema", "optimizer"]
    assert split_entries({"a": one, "optimizer": {"moment": one}}, np.ndarray) == {"": {"a": one}}


def test_name_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", _={"a": 1.0, "module.a": 2.0})
    with pytest.raises(WeightError, match="holds `a` twice"):
        weights.read(path)


@pytest.mark.parametrize("name", ["x.onnx", "x.txt", "x.pt.gz", "x.json"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightError, match=r"suffixes `\.pt`, `\.pth`|index\.json"):
        weights.read(tmp_path / name)


def test_unknown_suffix_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"suffixes `\.pt`"):
        written(tmp_path / "x.onnx", _={"a": 1.0})
    with pytest.raises(WeightError, match="can hold one entry"):
        written(tmp_path / "x.safetensors", ema={"a": 1.0}, model={"a": 1.0})
    assert not list(tmp_path.iterdir())


def test_missing_file(tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors", "x.ckpt", "folder"):
        with pytest.raises(WeightError, match="`path` does not exist"):
            weights.read(tmp_path / name)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("x.pt", "x.safetensors", "x.ckpt"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(WeightError, match="git-lfs pointer"):
            weights.read(tmp_path / name)
