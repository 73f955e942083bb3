"""Folders as diffusers and transformers have written them: shards, indexes, variants, pickles."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.vae.configuration import TemporalDecoderConfig
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from latte_ms.weights import WeightError, files, from_arrays
from latte_ms.weights.file_names import WeightFile, is_safetensors, parse
from latte_ms.weights.pretrained import (
    load_autoencoder,
    load_text_encoder,
    load_transformer,
    save_pretrained,
)
from tools import convert_checkpoint

SPELLINGS = [  # names of the shards of fp16, and of their index
    ("{}.fp16-0000{}-of-00002.safetensors", "{}.safetensors.index.fp16.json"),
    ("{}-0000{}-of-00002.fp16.safetensors", "{}.fp16.safetensors.index.json"),
    ("{}-0000{}-of-00002.fp16.safetensors", "{}.safetensors.fp16.index.json"),
]
VALUES = {"a": np.ones(2, np.float16), "b": np.arange(3, dtype=np.float16)}


def write_shards(folder: Path, stem: str, spelling: tuple[str, str]) -> Path:
    shards = [spelling[0].format(stem, number) for number in (1, 2)]
    for shard, (name, array) in zip(shards, VALUES.items(), strict=True):
        weights.write(folder / shard, {"": from_arrays({name: array})})
    index = folder / spelling[1].format(stem)
    index.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    return index


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("model.safetensors", {None}),
        ("model-00001-of-00002.safetensors", {None}),
        ("model.safetensors.index.json", {None}),
        ("model.fp16.safetensors", {"fp16"}),
        ("model.fp16-00001-of-00002.safetensors", {"fp16"}),
        ("model-00001-of-00002.fp16.safetensors", {"fp16"}),
        ("model.safetensors.index.fp16.json", {"fp16"}),
        ("model.fp16.safetensors.index.json", {"fp16"}),
        ("model.safetensors.fp16.index.json", {"fp16"}),
        ("model.fp16.safetensors.fp16.index.json", set()),
        ("config.json", set()),
        ("model.fp16.bin", set()),
    ],
)
def test_the_variant_of_a_file_name(name: str, variants: set[str | None]) -> None:
    found = {v for v in (None, "fp16", "fp1", "p16") if is_safetensors(name, v)}
    assert found == variants


def test_parts_of_a_name() -> None:
    shard = parse("a-b-00001-of-00002.fp16.bin")
    assert shard == WeightFile("a-b", "fp16", ".bin", "shard")
    assert parse("model.bin.index.json") == WeightFile("model", None, ".bin", "index")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_shards_is_read_by_variant(
    tmp_path: Path, spelling: tuple[str, str]
) -> None:
    stem = "diffusion_pytorch_model"
    weights.write(tmp_path, {"": from_arrays({"a": np.zeros(2), "b": np.zeros(3)})})
    index = write_shards(tmp_path, stem, spelling)
    assert list(files.read_entries(tmp_path, "fp16")) == [""]
    for read in (weights.read(tmp_path, variant="fp16"), weights.read(index)):
        assert {name: array.tolist() for name, array in read.items()} == {
            "a": [1, 1],
            "b": [0, 1, 2],
        }
    assert not weights.read(tmp_path)["a"].any()
    # A new file of the variant replaces the shards, however they are spelled.
    weights.write(tmp_path, {"": from_arrays(VALUES)}, variant="fp16")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"{stem}.fp16.safetensors", f"{stem}.safetensors"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_shards_without_an_index(tmp_path: Path, spelling: tuple[str, str]) -> None:
    write_shards(tmp_path, "model", spelling).unlink()
    with pytest.raises(WeightError, match=r"index is missing: model\.safetensors\.index\.fp16"):
        weights.read(tmp_path, variant="fp16")


def pickled(folder: Path, target: Path, stem: str, shards: bool = False) -> Path:
    """A component's folder with its weights in torch's files only."""
    target.mkdir()
    shutil.copy(folder / "config.json", target)
    arrays = dict(weights.read(folder))
    if not shards:
        weights.write(target / f"{stem}.bin", {"": from_arrays(arrays)})
        return target / f"{stem}.bin"
    names, index = list(arrays), {}
    for number, part in ((1, names[::2]), (2, names[1::2])):
        file = f"{stem}-0000{number}-of-00002.bin"
        weights.write(target / file, {"": from_arrays({name: arrays[name] for name in part})})
        index |= dict.fromkeys(part, file)
    (target / f"{stem}.bin.index.json").write_text(json.dumps({"weight_map": index}))
    return target / f"{stem}.bin.index.json"


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae", "temporal_decoder"])
def test_a_folder_of_pickles_says_how_to_convert_it(
    reference: Path, tmp_path: Path, component: str, shards: bool
) -> None:
    sources = {
        "transformer": (reference / "t2v" / "transformer", load_transformer),
        "text_encoder": (reference / "t2v" / "text_encoder", load_text_encoder),
        "vae": (reference / "vae", load_autoencoder),
        "temporal_decoder": (tmp_path / "saved", load_autoencoder),
    }
    source, load = sources[component]
    if component == "temporal_decoder":
        config = TemporalDecoderConfig(block_out_channels=(32,), layers_per_block=1)
        save_pretrained(AutoencoderKLTemporalDecoder(config), source)
    is_text = component == "text_encoder"
    stem = "pytorch_model" if is_text else "diffusion_pytorch_model"
    file = pickled(source, tmp_path / "pickled", stem, shards)
    with pytest.raises(WeightError) as raised:
        load(file.parent)
    command = f"latte-convert --source {file} --target {file.parent}"
    assert command in str(raised.value)
    assert convert_checkpoint.main(command.split()[1:]) == 0
    name = "model" if is_text else "diffusion_pytorch_model"
    assert (file.parent / f"{name}.safetensors").is_file()
    network = load(file.parent)
    original = load(source)
    for (parameter, ours), (_, theirs) in zip(
        network.parameters_and_names(), original.parameters_and_names(), strict=True
    ):
        assert np.array_equal(ours.asnumpy(), theirs.asnumpy()), parameter
