"""The name tables, in both directions, against names that the reference itself saved."""

import re
from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.configuration import AutoencoderConfig
from latte_ms.weights import WeightError, from_arrays, mapping
from latte_ms.weights.maps import AUTOENCODER_KL, LATTE, MAPS
from latte_ms.weights.transforms import TRANSFORMS


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    config = AutoencoderConfig(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1)
    return AutoencoderKL(config)


def test_latte_names_are_the_reference_names(latte: Latte, checkpoint: Path) -> None:
    names = [name for name, _ in latte.parameters_and_names()]
    disk = mapping.groups_of_parameters(LATTE, names)
    assert set(disk) == set(weights.read(checkpoint, "ema"))
    back = mapping.groups_of_file(LATTE, disk)
    assert sorted(m for group in back.values() for m in group.memory) == sorted(names)


def test_text_projection_name() -> None:
    config = LatteConfig(
        hidden_size=8, depth=2, num_heads=2, conditioning="text", text_tokens=2, text_width=3
    )
    names = [name for name, _ in Latte(config).parameters_and_names()]
    disk = set(mapping.groups_of_parameters(LATTE, names))
    assert {"text_embedding_projection.1.weight", "text_embedding_projection.1.bias"} <= disk


def test_rows_use_known_transforms_and_do_not_overlap() -> None:
    for table in MAPS.values():
        assert all(row.transform in TRANSFORMS for row in table.rows)
        names = [name for row in table.rows for name in row.memory_names]
        assert len(names) == len(set(names))
        plain = [re.sub(r"\{(\w+)\}", "0", row.disk) for row in table.rows]
        for name in plain:
            groups = {g.disk for g in mapping.groups_of_file(table, [name]).values()}
            assert groups == {name}


def test_memory_and_back_is_the_identity(checkpoint: Path) -> None:
    disk = weights.read(checkpoint, "ema")
    back = mapping.to_stored_layout(mapping.to_network_layout(disk, LATTE), LATTE, LATTE.sizes)
    assert back.specs == {name: disk.specs[name] for name in back.specs}
    assert set(back) == set(disk)
    assert all(back[name].tobytes() == disk[name].tobytes() for name in disk)


def test_network_is_told_from_names(checkpoint: Path, vae: AutoencoderKL) -> None:
    assert mapping.map_of_names(weights.read(checkpoint, "ema").specs) is LATTE
    names = {name for name, _ in vae.parameters_and_names()}
    assert mapping.map_of_names(names) is AUTOENCODER_KL
    assert mapping.map_of_names(names | {"decoder.time_conv_out.weight"}) is None
    assert mapping.map_of_names({"a", "b"}) is None


def test_patch_weights_tell_a_wrong_channel_count() -> None:
    tensors = from_arrays({"x_embedder.proj.weight": np.zeros((8, 16), np.float32)}, "memory")
    specs = mapping.to_stored_layout(tensors, LATTE, {"in_channels": 4}).specs
    assert specs["x_embedder.proj.weight"].shape == (8, 4, 2, 2)
    with pytest.raises(WeightError, match=r"`in_channels` \(=3\) does not fit"):
        mapping.to_stored_layout(tensors, LATTE, {"in_channels": 3})


def test_incomplete_stack_is_refused() -> None:
    array = np.zeros((2, 2), np.float32)
    tensors = from_arrays({"blocks.0.attention.query.weight": array}, "memory")
    with pytest.raises(WeightError, match=r"needs `blocks.0.attention.key.weight`"):
        mapping.to_stored_layout(tensors, LATTE, LATTE.sizes)
    odd = from_arrays({"blocks.0.attn.qkv.bias": np.zeros(7, np.float32)})
    with pytest.raises(WeightError, match="stacked parts"):
        mapping.to_network_layout(odd, LATTE)


def test_vae_is_saved_with_the_present_spelling(vae: AutoencoderKL, tmp_path: Path) -> None:
    weights.save(vae, tmp_path / "vae")
    assert [p.name for p in (tmp_path / "vae").iterdir()] == ["diffusion_pytorch_model.safetensors"]
    saved = weights.read(tmp_path / "vae")
    attention = {name for name in saved if ".attentions." in name}
    assert attention == {
        f"{side}.mid_block.attentions.0.{part}.{leaf}"
        for side in ("encoder", "decoder")
        for part in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
        for leaf in ("weight", "bias")
    }


@pytest.mark.parametrize("as_convolution", [False, True])
def test_vae_loads_older_files(vae: AutoencoderKL, tmp_path: Path, as_convolution: bool) -> None:
    """Before 2023 diffusers called the projections query, key, value, proj_attn."""
    weights.save(vae, tmp_path / "new.safetensors")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, array in weights.read(tmp_path / "new.safetensors").items():
        old = next(
            (name.replace(f".{n}.", f".{o}.") for n, o in older.items() if f".{n}." in name), ""
        )
        if old and array.ndim == 2 and as_convolution:
            array = array[:, :, None, None]
        tensors[old or name] = array
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in tensors
    weights.write(tmp_path / "old.bin", {"": from_arrays(tensors)})
    again = AutoencoderKL(vae.config, seed=7)
    weights.load(again, tmp_path / "old.bin")
    for (name, a), (_, b) in zip(
        vae.parameters_and_names(), again.parameters_and_names(), strict=True
    ):
        assert np.array_equal(a.asnumpy(), b.asnumpy()), name


def test_both_spellings_at_once_must_be_equal(vae: AutoencoderKL, tmp_path: Path) -> None:
    weights.save(vae, tmp_path / "x.pt")
    tensors = dict(weights.read(tmp_path / "x.pt"))
    extra = "encoder.mid_block.attentions.0.query.bias"
    tensors[extra] = tensors["encoder.mid_block.attentions.0.to_q.bias"]
    weights.write(tmp_path / "x.pt", {"": from_arrays(tensors)})
    weights.load(vae, tmp_path / "x.pt")
    tensors[extra] = tensors[extra] + np.float32(1)
    weights.write(tmp_path / "x.pt", {"": from_arrays(tensors)})
    with pytest.raises(WeightError, match=f"x.pt: .*`{extra}` are two names of one tensor"):
        weights.load(vae, tmp_path / "x.pt")
