"""Folders of the text-to-video network: diffusers' names, types and variants on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from latte_ms import weights
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.weights import WeightError, mapping
from latte_ms.weights.maps import LATTE_T2V
from latte_ms.weights.pretrained import load_transformer, save_pretrained

Make = Callable[..., LatteT2V]
STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def recorded(reference: Path) -> Path:
    return reference / "t2v" / "transformer"


def values_of(network: LatteT2V) -> dict[str, np.ndarray]:
    items = network.parameters_and_names()
    return {name: parameter.astype(ms.float32).asnumpy() for name, parameter in items}


def test_names_and_shapes_on_disk_are_those_of_diffusers(recorded: Path, tmp_path: Path) -> None:
    save_pretrained(load_transformer(recorded), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", f"{STEM}.safetensors"}
    before, after = weights.read(recorded), weights.read(tmp_path)
    assert after.specs.keys() == before.specs.keys()
    assert all(after.specs[name] == before.specs[name] for name in before)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    file = json.loads((recorded / "config.json").read_text())
    del file["_diffusers_version"]
    assert json.loads((tmp_path / "config.json").read_text()) == file


def test_the_file_tells_its_network(recorded: Path, t2v: Make) -> None:
    assert mapping.map_of_names(weights.read(recorded).specs) is LATTE_T2V
    names = [name for name, _ in t2v().parameters_and_names()]
    assert mapping.map_of_names(names) is LATTE_T2V


def test_a_loaded_network_is_ready_for_evaluation(recorded: Path) -> None:
    network = load_transformer(recorded, temporal_interpolation=True)
    assert network.temporal_interpolation
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.get_parameters())


@pytest.mark.parametrize("kind", [ms.float16, ms.bfloat16])
def test_weights_stay_in_16_bits(recorded: Path, tmp_path: Path, kind: ms.Type) -> None:
    full, half = load_transformer(recorded), load_transformer(recorded, parameter_dtype=kind)
    assert {parameter.dtype for parameter in half.get_parameters()} == {kind}
    for (name, one), other in zip(values_of(full).items(), values_of(half).values(), strict=True):
        np.testing.assert_allclose(other, one, rtol=2**-8, atol=1e-7, err_msg=name)
    save_pretrained(half, tmp_path)
    specs = weights.read(tmp_path).specs
    assert {spec.dtype for spec in specs.values()} == {str(kind).lower()}


def test_weights_are_kept_in_the_type_of_the_products_unless_told(recorded: Path) -> None:
    for storage, kept in ((None, ms.float16), (ms.float32, ms.float32)):
        network = load_transformer(recorded, ms.float16, storage)
        assert {parameter.dtype for parameter in network.get_parameters()} == {kept}
        assert network.proj_out.dtype == ms.float16


def test_a_variant_is_a_file_of_its_own(t2v: Make, tmp_path: Path) -> None:
    network = t2v()
    save_pretrained(network, tmp_path, variant="fp16")
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", f"{STEM}.fp16.safetensors"}
    again = load_transformer(tmp_path, variant="fp16")
    np.testing.assert_equal(values_of(again), values_of(network))
    with pytest.raises(WeightError, match=r"`variant` \(=None\) is not in .* `fp16`"):
        load_transformer(tmp_path)


def test_shards_are_read(t2v: Make, tmp_path: Path) -> None:
    network = t2v()
    save_pretrained(network, tmp_path)
    weights.save(network, tmp_path, shard_size=20_000)
    assert (tmp_path / f"{STEM}.safetensors.index.json").is_file()
    np.testing.assert_equal(values_of(load_transformer(tmp_path)), values_of(network))


def test_projections_without_bias(t2v: Make, tmp_path: Path) -> None:
    network = t2v(attention_bias=False)
    save_pretrained(network, tmp_path)
    names = set(weights.read(tmp_path))
    assert "transformer_blocks.0.attn2.to_out.0.bias" in names
    assert not [name for name in names if ".to_q.bias" in name or ".to_k.bias" in name]
    np.testing.assert_equal(values_of(load_transformer(tmp_path)), values_of(network))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`transformer` must be a folder with config"):
        load_transformer(tmp_path / "nothing")


def test_weights_of_another_size_are_refused(t2v: Make, tmp_path: Path) -> None:
    save_pretrained(t2v(), tmp_path)
    t2v(num_layers=2).config.to_json(tmp_path / "config.json")
    with pytest.raises(WeightError, match=r"missing: .*transformer_blocks\.1\.") as caught:
        load_transformer(tmp_path)
    assert "does not fit the network" in str(caught.value)
