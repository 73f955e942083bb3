"""Networks and their folders: dtypes, damaged configurations, and shards that diffusers reads."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from latte_ms import weights
from latte_ms.weights import WeightError
from latte_ms.weights.pretrained import (
    load_autoencoder,
    load_text_encoder,
    load_transformer,
    recorded_sizes,
    save_pretrained,
)
from latte_ms.weights.recorded import TrainingState, write_state

PARTS = {
    "transformer": (load_transformer, "diffusion_pytorch_model"),
    "vae_temporal_decoder": (load_autoencoder, "diffusion_pytorch_model"),
    "text_encoder": (load_text_encoder, "model"),
}
LOADERS = {name: part[0] for name, part in PARTS.items()}


@pytest.fixture
def folders(reference: Path) -> Path:
    return reference / "t2v"


@pytest.mark.parametrize("name", PARTS)
def test_dtypes_are_checked_first(name: str, tmp_path: Path) -> None:
    load: Any = LOADERS[name]
    with pytest.raises(ValueError, match=r"`dtype` must be one of \[mindspore\.float32.*'half'"):
        load(tmp_path / "nowhere", "half")
    with pytest.raises(ValueError, match=r"`parameter_dtype` must be one of .*got mindspore\.int8"):
        load(tmp_path / "nowhere", ms.float16, ms.int8)
    with pytest.raises(ValueError, match=r"`dtype` bfloat16 has no CPU kernels"):
        load(tmp_path / "nowhere", ms.bfloat16)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("content", [b"{", b"\xff", b"3"])
def test_damaged_configurations_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    path = str(tmp_path / "config.json")
    with pytest.raises(ValueError, match=re.escape(path)) as caught:
        LOADERS[name](tmp_path)
    assert str(caught.value).count(path) == 1


def test_a_checkpoint_of_lora_matrices_is_no_transformer(tmp_path: Path) -> None:
    write_state(tmp_path, TrainingState(1, {"model": "LatteT2V", "network": {}, "lora": {}}))
    for read in (load_transformer, recorded_sizes):
        with pytest.raises(ValueError, match="is a checkpoint of LoRA matrices: give it as `lora`"):
            read(tmp_path)


def test_invalid_configuration_is_located(tmp_path: Path) -> None:
    text = '{"_class_name": "AutoencoderKL", "latent_channels": 0}'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"config\.json: `latent_channels` must be an integer of at least 1"
    ):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_text_encoder_in_shards(
    folders: Path, tmp_path: Path, variant: str | None, streamed: bool
) -> None:
    network = load_text_encoder(folders / "text_encoder", streamed=streamed)
    save_pretrained(network, tmp_path, variant, 2000)
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    before = weights.read(folders / "text_encoder", "model")
    after = weights.read(tmp_path, "model", variant)
    assert set(after) == set(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_one_file_replaces_the_shards_of_its_variant(
    name: str, folders: Path, tmp_path: Path, variant: str | None
) -> None:
    load, stem = PARTS[name]
    network = load(folders / name)
    for other in (None, "fp16"):
        save_pretrained(network, tmp_path, other, 4000)
    before = {file.name for file in tmp_path.iterdir()}
    save_pretrained(network, tmp_path, variant)
    middle = "" if variant is None else f".{variant}"
    replaced = {file for file in before if file.startswith(f"{stem}{middle}-00")}
    replaced.add(f"{stem}.safetensors.index{middle}.json")
    expected = before - replaced | {f"{stem}{middle}.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == expected


def test_a_network_without_files_behind_it_is_not_saved(folders: Path, tmp_path: Path) -> None:
    network = load_text_encoder(folders / "text_encoder", streamed=True)
    network.weights = dict(network.weights)
    with pytest.raises(weights.WeightError, match="must come from `load_text_encoder`"):
        save_pretrained(network, tmp_path)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_in_the_libraries(
    name: str, folders: Path, tmp_path: Path, variant: str | None
) -> None:
    """diffusers and transformers find our shards, and write files of the same names."""
    import diffusers
    import torch
    import transformers

    load, stem = PARTS[name]
    kind = {
        "transformer": diffusers.LatteTransformer3DModel,
        "vae_temporal_decoder": diffusers.AutoencoderKLTemporalDecoder,
        "text_encoder": transformers.T5EncoderModel,
    }[name]
    save_pretrained(load(folders / name), tmp_path / "ours", variant, 4000)
    theirs = kind.from_pretrained(tmp_path / "ours", variant=variant)
    expected = kind.from_pretrained(folders / name).state_dict()
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, expected[key])
    theirs.save_pretrained(tmp_path / "theirs", variant=variant, max_shard_size=4000)
    middle = "" if variant is None else f".{variant}"
    for folder in ("ours", "theirs"):
        names = {file.name for file in (tmp_path / folder).glob("*")}
        shards = [file for file in names if file.startswith(f"{stem}{middle}-00001-of-")]
        assert len(shards) == 1
        assert f"{stem}.safetensors.index{middle}.json" in names
    read = weights.read(tmp_path / "theirs", "model" if stem == "model" else None, variant)
    assert set(read) <= set(expected)


@pytest.mark.parametrize(
    ("component", "field", "value"),
    [
        ("transformer", "num_layers", 256),
        ("transformer", "caption_channels", 65_536),
        ("text_encoder", "vocab_size", 1 << 24),
        ("text_encoder", "num_layers", 256),
        ("vae", "layers_per_block", 64),
        ("vae", "block_out_channels", [4096] * 4),
    ],
)
def test_a_configuration_too_large_for_its_weights_builds_nothing(
    reference: Path, tmp_path: Path, component: str, field: str, value: Any
) -> None:
    load = {
        "transformer": load_transformer,
        "text_encoder": load_text_encoder,
        "vae": load_autoencoder,
    }[component]
    source = reference / "vae" if component == "vae" else reference / "t2v" / component
    folder = Path(shutil.copytree(source, tmp_path / "x"))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {field: value}))
    with pytest.raises(WeightError, match=r"config\.json asks for at least [\d,]+ values, and the"):
        load(folder)
