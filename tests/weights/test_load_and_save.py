"""A network's parameters from and to files: strict, exact, all or nothing."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from latte_ms import weights
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.weights import WeightError, from_arrays

Values = Callable[[nn.Cell], dict[str, np.ndarray]]


def changed(checkpoint: Path, target: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """The `ema` entry of the checkpoint with changes."""
    tensors = dict(weights.read(checkpoint, "ema"))
    edit(tensors)
    weights.write(target, {"ema": from_arrays(tensors)})
    return target


def test_load_fills_every_parameter(latte: Latte, checkpoint: Path, values: Values) -> None:
    """The trap is a loader that takes `model`, or leaves some parameters at their first values."""
    weights.load(latte, checkpoint)
    disk, memory = weights.read(checkpoint, "ema"), values(latte)
    assert not np.array_equal(
        disk["final_layer.linear.bias"],
        weights.read(checkpoint, "model")["final_layer.linear.bias"],
    )
    qkv = disk["blocks.1.attn.qkv.weight"]
    for i, part in enumerate(("query", "key", "value")):
        actual = memory[f"blocks.1.attention.{part}.weight"]
        assert np.array_equal(actual, qkv[48 * i : 48 * (i + 1)])
    patch = disk["x_embedder.proj.weight"]
    assert patch.shape == (48, 4, 2, 2)
    assert np.array_equal(memory["x_embedder.proj.weight"], patch.reshape(48, 16))
    assert np.array_equal(memory["temp_embed"], disk["temp_embed"])
    total = sum(array.size for array in memory.values())
    assert total == sum(spec.size for spec in disk.specs.values())


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.safetensors", "folder", "x.ckpt"])
def test_saved_file_is_bit_equal_to_the_reference(
    latte: Latte,
    latte_config: LatteConfig,
    checkpoint: Path,
    tmp_path: Path,
    name: str,
    values: Values,
) -> None:
    weights.load(latte, checkpoint)
    weights.save(latte, tmp_path / name)
    if not name.endswith(".ckpt"):
        reference, saved = weights.read(checkpoint, "ema"), weights.read(tmp_path / name, "ema")
        assert saved.specs == {key: reference.specs[key] for key in saved.specs}
        assert set(saved) == set(reference)
        assert all(saved[key].tobytes() == reference[key].tobytes() for key in reference)
    again = Latte(latte_config, seed=2)
    weights.load(again, tmp_path / name)
    expected = values(latte)
    assert all(np.array_equal(array, expected[key]) for key, array in values(again).items())


def test_mindspore_users_load_ckpt_without_this_package(
    latte: Latte, latte_config: LatteConfig, checkpoint: Path, tmp_path: Path, values: Values
) -> None:
    weights.load(latte, checkpoint)
    weights.save(latte, tmp_path / "x.ckpt")
    again = Latte(latte_config, seed=2)
    loaded = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert ms.load_param_into_net(again, loaded, strict_load=True) == ([], [])
    expected = values(latte)
    assert all(np.array_equal(array, expected[key]) for key, array in values(again).items())


def test_pt_has_the_entry_that_upstream_asks_for(latte: Latte, tmp_path: Path) -> None:
    for entry, written in ((None, "ema"), ("model", "model")):
        weights.save(latte, tmp_path / "x.pt", entry=entry)
        with pytest.raises(WeightError, match=f"entries `{written}`"):
            weights.read(tmp_path / "x.pt", "none of them")
    weights.save(latte, tmp_path / "x.pt", entry="")
    weights.load(latte, tmp_path / "x.pt", entry="model")


def test_training_folder_holds_model_and_ema(
    latte: Latte, latte_config: LatteConfig, tmp_path: Path, values: Values
) -> None:
    ema = {
        name: Parameter(Tensor(parameter.asnumpy() + 1), name=f"ema.{name}")
        for name, parameter in latte.parameters_and_names()
    }
    weights.save(latte, tmp_path / "0001000", entry="model")
    weights.save(latte, tmp_path / "0001000", entry="ema", parameters=ema)
    assert sorted(p.name for p in (tmp_path / "0001000").iterdir()) == [
        "ema.safetensors",
        "model.safetensors",
    ]
    again = Latte(latte_config, seed=2)
    weights.load(again, tmp_path / "0001000")
    expected = values(latte)
    assert all(np.array_equal(array, expected[k] + 1) for k, array in values(again).items())
    weights.load(again, tmp_path / "0001000", entry="ema", parameters=ema)
    weights.load(again, tmp_path / "0001000", entry="model")
    assert all(np.array_equal(array, expected[k]) for k, array in values(again).items())
    with pytest.raises(WeightError, match=r"missing: pos_embed"):
        weights.load(again, tmp_path / "0001000", parameters={"pos_embde": ema["pos_embed"]})


def test_all_errors_in_one_message_and_nothing_changes(
    latte: Latte, checkpoint: Path, tmp_path: Path, values: Values
) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["blocks.2.mlp.fc3.weight"] = tensors.pop("blocks.2.mlp.fc1.weight")
        tensors["temp_embed"] = np.zeros((1, 8, 48), np.float32)
        tensors["blocks.0.attn.qkv.bias"] = np.zeros(143, np.float32)
        tensors["pos_embed"] = np.zeros((1, 16, 48), np.int64)
        del tensors["final_layer.linear.bias"]

    before = values(latte)
    path = changed(checkpoint, tmp_path / "x.pt", edit)
    with pytest.raises(WeightError) as caught:
        weights.load(latte, path)
    message = str(caught.value)
    for line in (
        "(2 missing, 1 unexpected, 3 wrong of 53 tensors)",
        "missing: blocks.2.mlp.fc1.weight (nearest: blocks.2.mlp.fc3.weight)",
        "missing: final_layer.linear.bias",
        "unexpected: blocks.2.mlp.fc3.weight (nearest: blocks.2.mlp.fc1.weight",
        "wrong: temp_embed: shape (1, 8, 48) instead of (1, 4, 48)",
        "wrong: blocks.0.attn.qkv.bias: shape (143,) instead of (144,)",
        "wrong: pos_embed: dtype int64",
    ):
        assert line in message, message
    after = values(latte)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_long_reports_are_shortened(latte_config: LatteConfig, checkpoint: Path) -> None:
    deeper = Latte(dataclasses.replace(latte_config, depth=8))
    with pytest.raises(WeightError, match=r"40 missing") as caught:
        weights.load(deeper, checkpoint)
    assert "missing: and 32 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 30


def test_damage_in_the_last_tensor_changes_nothing(
    latte: Latte, checkpoint: Path, tmp_path: Path, values: Values
) -> None:
    weights.save(latte, tmp_path / "x.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    last = data.rindex(latte.final_layer.modulation.linear.weight.asnumpy().tobytes())
    data[last + 5] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    weights.load(latte, checkpoint)
    before = values(latte)
    with pytest.raises(WeightError, match="wrong CRC-32"):
        weights.load(latte, tmp_path / "x.pt")
    assert all(np.array_equal(before[name], array) for name, array in values(latte).items())


def test_file_dtype_is_cast_to_the_parameters(
    latte: Latte, checkpoint: Path, tmp_path: Path, values: Values
) -> None:
    weights.load(latte, checkpoint)
    exact = values(latte)
    for dtype, kind in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        weights.save(latte, tmp_path / "x.pt", dtype=dtype)
        assert {s.dtype for s in weights.read(tmp_path / "x.pt").specs.values()} == {dtype}
        weights.load(latte, tmp_path / "x.pt")
        for name, array in values(latte).items():
            assert np.array_equal(array, exact[name].astype(kind).astype(np.float32)), name
        weights.load(latte, checkpoint)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_parameters_stored_in_16_bits(
    latte: Latte, checkpoint: Path, tmp_path: Path, dtype: ms.Type
) -> None:
    for parameter in latte.get_parameters():
        parameter.set_dtype(dtype)
    weights.load(latte, checkpoint)
    assert latte.pos_embed.dtype == dtype
    weights.save(latte, tmp_path / "x.safetensors")
    reference, saved = weights.read(checkpoint, "ema"), weights.read(tmp_path / "x.safetensors")
    for name, array in reference.items():
        assert saved[name].dtype == saved["pos_embed"].dtype
        assert saved[name].tobytes() == array.astype(saved[name].dtype).tobytes(), name


def test_values_beyond_16_bits_change_nothing(
    latte: Latte, checkpoint: Path, tmp_path: Path, values: Values
) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["final_layer.linear.bias"][3] = 1e6

    path = changed(checkpoint, tmp_path / "x.pt", edit)
    for parameter in latte.get_parameters():
        parameter.set_dtype(ms.float16)
    before = values(latte)
    message = r"`final_layer.linear.bias` does not fit into float16: it holds 1e\+06"
    with pytest.raises(WeightError, match=message):
        weights.load(latte, path)
    assert all(np.array_equal(before[name], array) for name, array in values(latte).items())


def test_float64_values_beyond_float32_change_nothing(
    latte: Latte, checkpoint: Path, tmp_path: Path, values: Values
) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        for name, array in tensors.items():
            tensors[name] = array.astype(np.float64)
        tensors["final_layer.linear.bias"][3] = 1e300

    path = changed(checkpoint, tmp_path / "x.pt", edit)
    before = values(latte)
    message = r"`final_layer.linear.bias` does not fit into float32: it holds 1e\+300"
    with pytest.raises(WeightError, match=message):
        weights.load(latte, path)
    assert all(np.array_equal(before[name], array) for name, array in values(latte).items())


def test_failed_save_leaves_the_old_file(latte: Latte, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors", "x.ckpt"):
        weights.load(latte, checkpoint)
        weights.save(latte, tmp_path / name)
        before = (tmp_path / name).read_bytes()
        latte.final_layer.linear.bias.set_data(Tensor(np.full(32, 1e6, np.float32)))
        with pytest.raises(WeightError, match="does not fit into float16"):
            weights.save(latte, tmp_path / name, dtype="float16")
        assert (tmp_path / name).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3  # and no temporary ones


def test_names_do_not_depend_on_what_holds_the_network(
    latte: Latte, checkpoint: Path, tmp_path: Path
) -> None:
    class Holder(nn.Cell):
        def __init__(self, network: nn.Cell) -> None:
            super().__init__()
            self.network = network

    holder = Holder(latte)
    holder.update_parameters_name("train.")
    weights.load(latte, checkpoint)
    weights.save(latte, tmp_path / "x.pt")
    assert set(weights.read(tmp_path / "x.pt")) == set(weights.read(checkpoint, "ema"))


def test_network_without_a_map(checkpoint: Path) -> None:
    with pytest.raises(WeightError, match=r"`cell` must be one of the networks `Latte`.*got Dense"):
        weights.load(nn.Dense(2, 2), checkpoint)


def test_wrong_arguments(latte: Latte, tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="`dtype` must be a floating-point dtype"):
        weights.save(latte, tmp_path / "x.pt", dtype="int8")
    with pytest.raises(WeightError, match="`shard_size` must be at least 1"):
        weights.save(latte, tmp_path / "x", shard_size=0)
    with pytest.raises(WeightError, match="`shard_size` is for folders"):
        weights.save(latte, tmp_path / "x.pt", shard_size=100)
