"""Files that hold more than a network: a wrapper's names, an optimizer, numbers beside weights."""

import logging
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from latte_ms import weights
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.mapping import groups_of_parameters, map_of
from latte_ms.weights.maps import MAPS
from latte_ms.weights.selection import advice
from tools import convert_checkpoint

Values = Callable[[Latte], dict[str, np.ndarray]]


class Wrapper(nn.Cell):
    """Names of the network begin with `network.`."""

    def __init__(self, network: Latte) -> None:
        super().__init__()
        self.network = network


@pytest.fixture
def saved(latte_config: LatteConfig) -> Latte:
    return Latte(latte_config, seed=5)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_checkpoints_of_a_wrapper_cell(
    saved: Latte, latte: Latte, values: Values, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    expected = values(saved)
    arrays = {f"network.{name}": array for name, array in expected.items()}
    parts = [{"name": n, "data": ms.Tensor(a)} for n, a in arrays.items()]
    parts += [{"name": f"moment1.{n}", "data": ms.Tensor(a * 0)} for n, a in arrays.items()]
    parts.append({"name": "global_step", "data": ms.Tensor([7], ms.int32)})
    ms.save_checkpoint(parts, str(path), append_dict={"epoch": 3, "lr": 0.1}, format=suffix)
    before = values(latte)
    with pytest.raises(WeightError, match=r"begin with `network\.`: give that as `prefix`"):
        weights.load(latte, path)
    assert all(np.array_equal(a, before[n]) for n, a in values(latte).items())
    left_out = weights.load(latte, path, prefix="network.")
    assert all(np.array_equal(a, expected[n]) for n, a in values(latte).items())
    assert set(left_out) == {*(f"moment1.{n}" for n in arrays), "global_step", "epoch", "lr"}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_checkpoints_with_an_optimizer(
    saved: Latte,
    latte: Latte,
    values: Values,
    tmp_path: Path,
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / f"x.{suffix}"
    optimizer = nn.Adam(saved.trainable_params())
    cells = nn.CellList([saved, optimizer], auto_prefix=False)
    ms.save_checkpoint(cells, str(path), append_dict={"epoch": 3}, format=suffix)
    names = {p.name for p in optimizer.get_parameters()} - set(values(saved))
    with pytest.raises(WeightError, match=r"`only_network` leaves them out"):
        weights.load(latte, path)
    with caplog.at_level(logging.WARNING):
        left_out = weights.load(latte, path, only_network=True)
    assert set(left_out) == names | {"epoch"}
    assert f"{len(left_out)} tensors are left out" in caplog.text
    assert len(caplog.text) < 1500
    expected = values(saved)
    assert all(np.array_equal(a, expected[n]) for n, a in values(latte).items())


def test_the_converter_takes_the_same_choices(
    saved: Latte,
    latte: Latte,
    values: Values,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, target = tmp_path / "x.ckpt", tmp_path / "x.safetensors"
    ms.save_checkpoint(Wrapper(saved), str(path), append_dict={"epoch": 3})
    assert {name.partition(".")[0] for name in weights.read(path)} == {"network", "epoch"}
    arguments = ["--source", str(path), "--target", str(target)]
    assert convert_checkpoint.main(arguments) == 1
    assert "begin with `network.`: give that as `prefix`" in capsys.readouterr().err
    assert not target.exists()
    assert convert_checkpoint.main([*arguments, "--prefix", "network."]) == 0
    weights.load(latte, target)
    expected = values(saved)
    assert all(np.array_equal(a, expected[n]) for n, a in values(latte).items())


def test_a_larger_network_is_never_cut(saved: Latte, latte: Latte, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    weights.save(saved, path)
    arrays = dict(weights.read(path))
    arrays["blocks.99.attn.proj.bias"] = arrays["blocks.0.attn.proj.bias"]
    weights.write(path, {"": from_arrays(arrays)})
    with pytest.raises(WeightError, match=r"unexpected: blocks\.99"):
        weights.load(latte, path, only_network=True)


def test_a_wrong_prefix_names_the_right_one(saved: Latte, latte: Latte, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    weights.save(saved, path)
    arrays = {f"backbone.{name}": array for name, array in weights.read(path).items()}
    weights.write(path, {"": from_arrays(arrays)})
    with pytest.raises(WeightError, match=r"`prefix` \(='net\.'\) begins no .*`backbone\.`"):
        weights.load(latte, path, prefix="net.")
    with pytest.raises(WeightError, match=r"begin with `backbone\.`"):
        weights.load(latte, path, prefix="backbone")
    weights.load(latte, path, prefix="backbone.")


def test_advice_names_every_copy_of_the_network() -> None:
    names = ["temp_embed", "x_embedder.proj.weight", "final_layer.linear.weight"]
    copies = [f"{head}.{name}" for head in ("net", "average", "moment1.net") for name in names]
    assert "`net.`, `average.`" in advice(copies, MAPS["Latte"])
    assert "moment1" not in advice(copies, MAPS["Latte"])
    assert advice(names, MAPS["Latte"]) == ""


@pytest.mark.parametrize("conditioning", ["none", "class", "text"])
def test_parts_cover_all_names(conditioning: str) -> None:
    config = LatteConfig(
        input_size=4, hidden_size=8, depth=2, num_heads=2, num_frames=2, conditioning=conditioning
    )
    network = Latte(config, seed=None)
    names = [name for name, _ in network.parameters_and_names()]
    for name in [*names, *groups_of_parameters(map_of(network), names)]:
        assert name.partition(".")[0] in MAPS["Latte"].parts
