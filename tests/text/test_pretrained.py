"""Text encoders from and to folders in transformers' layout."""

import json
import shutil
from pathlib import Path

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest

from latte_ms import weights
from latte_ms.text import T5Encoder
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.pretrained import load_text_encoder, save_pretrained


def values(network: T5Encoder) -> dict[str, np.ndarray]:
    return {name: p.asnumpy() for name, p in network.parameters_and_names()}


def copied(source: Path, target: Path, entries: dict[str, np.ndarray] | None = None) -> Path:
    """The folder with other weights, in one file unless the caller cuts them."""
    target.mkdir()
    shutil.copy(source / "config.json", target)
    if entries is not None:
        weights.write(target, {"model": from_arrays(entries)})
    return target


@pytest.mark.parametrize("streamed", [False, True])
def test_saved_file_is_bit_equal_to_the_reference(
    encoder_folder: Path, tmp_path: Path, streamed: bool
) -> None:
    save_pretrained(load_text_encoder(encoder_folder, streamed=streamed), tmp_path)
    saved, reference = weights.read(tmp_path, "model"), weights.read(encoder_folder, "model")
    assert saved.specs == {name: reference.specs[name] for name in saved.specs}
    assert set(saved) == set(reference)
    assert all(saved[name].tobytes() == reference[name].tobytes() for name in reference)
    config, theirs = (
        json.loads((folder / "config.json").read_text()) for folder in (tmp_path, encoder_folder)
    )
    for name in config.keys() & theirs.keys():
        assert config[name] == theirs[name]


def test_torch_reads_what_is_saved(
    encoder_folder: Path, tmp_path: Path, torch_arrays: dict[str, np.ndarray]
) -> None:
    import torch
    import transformers

    save_pretrained(load_text_encoder(encoder_folder), tmp_path)
    theirs = transformers.T5EncoderModel.from_pretrained(tmp_path).eval()
    ids, mask = (torch.from_numpy(torch_arrays[name][:2]).long() for name in ("ids", "mask"))
    with torch.no_grad():
        embeddings = theirs(ids, attention_mask=mask)[0].numpy()
    assert np.abs(embeddings - torch_arrays["embeddings"][:2]).max() < 1e-5


@pytest.mark.parametrize("streamed", [False, True])
def test_shards_and_variants(encoder_folder: Path, tmp_path: Path, streamed: bool) -> None:
    whole = values(load_text_encoder(encoder_folder))
    tensors = weights.read(encoder_folder, "model")
    shards = copied(encoder_folder, tmp_path / "shards")
    weights.write(shards, {"model": tensors}, shard_size=40_000)
    assert len(list(shards.glob("model-*-of-*.safetensors"))) > 2
    half = copied(encoder_folder, tmp_path / "half")
    weights.write(half / "model.fp16.safetensors", {"model": tensors.cast("float16")})
    for folder, variant in ((shards, None), (half, "fp16")):
        loaded = load_text_encoder(folder, variant=variant, streamed=streamed)
        arrays = loaded.weights if streamed else values(loaded)
        bound = 0.0 if variant is None else 2e-3
        assert set(arrays) == set(whole)
        assert all(np.abs(arrays[n] - whole[n]).max() <= bound * 4 for n in whole)
    with pytest.raises(WeightError, match=r"`variant` \(=None\) is not in"):
        load_text_encoder(half, streamed=streamed)


def test_a_sharded_variant(encoder_folder: Path, tmp_path: Path) -> None:
    """transformers puts the variant before the number of a shard, and into the index's name."""
    folder = copied(encoder_folder, tmp_path / "x")
    weights.write(folder, {"model": weights.read(encoder_folder, "model")}, shard_size=40_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name in set(index["weight_map"].values()):
        (folder / name).rename(folder / name.replace("model-", "model.fp16-"))
    index["weight_map"] = {
        key: name.replace("model-", "model.fp16-") for key, name in index["weight_map"].items()
    }
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    arrays = values(load_text_encoder(folder, variant="fp16"))
    whole = values(load_text_encoder(encoder_folder))
    assert all(np.array_equal(arrays[name], whole[name]) for name in whole)


def test_a_saved_variant_is_read_again(encoder_folder: Path, tmp_path: Path) -> None:
    half = load_text_encoder(encoder_folder, parameter_dtype=ms.float16)
    save_pretrained(half, tmp_path, variant="fp16")
    assert (tmp_path / "model.fp16.safetensors").is_file()
    again = load_text_encoder(tmp_path, parameter_dtype=ms.float16, variant="fp16")
    wanted = values(half)
    assert all(np.array_equal(array, wanted[name]) for name, array in values(again).items())


def test_the_older_name_of_the_tied_table(encoder_folder: Path, tmp_path: Path) -> None:
    tensors = dict(weights.read(encoder_folder, "model"))
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    folder = copied(encoder_folder, tmp_path / "x", tensors)
    for streamed in (False, True):
        assert load_text_encoder(folder, streamed=streamed)


def test_bfloat16_weights_are_streamed(
    encoder_folder: Path, tmp_path: Path, torch_arrays: dict[str, np.ndarray]
) -> None:
    tensors = weights.read(encoder_folder, "model")
    brain = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    streamed = load_text_encoder(copied(encoder_folder, tmp_path / "x", brain), streamed=True)
    embeddings = streamed.embed(torch_arrays["ids"][1:2], torch_arrays["mask"][1:2])
    expected = torch_arrays["embeddings"][1:2]
    assert np.abs(embeddings - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("streamed", [False, True])
def test_what_does_not_fit_is_reported_at_once(
    encoder_folder: Path, tmp_path: Path, streamed: bool
) -> None:
    tensors = dict(weights.read(encoder_folder, "model"))
    del tensors["encoder.final_layer_norm.weight"]
    tensors["encoder.block.9.layer.0.SelfAttention.q.weight"] = np.zeros((2, 2), np.float32)
    tensors["shared.weight"] = tensors["shared.weight"][:-1]
    folder = copied(encoder_folder, tmp_path / "x", tensors)
    with pytest.raises(WeightError) as caught:
        load_text_encoder(folder, streamed=streamed)
    message = str(caught.value)
    assert "missing: " in message
    assert "unexpected: encoder.block.9" in message
    assert "shape (84, 32) instead of (85, 32)" in message


def test_bad_folders_and_options_are_named(encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`text_encoder` must be a folder with config"):
        load_text_encoder(tmp_path)
    with pytest.raises(ValueError, match="`parameter_dtype` must be None for a streamed"):
        load_text_encoder(encoder_folder, parameter_dtype=ms.float16, streamed=True)


def test_values_too_large_for_the_dtype_are_named(encoder_folder: Path, tmp_path: Path) -> None:
    tensors = dict(weights.read(encoder_folder, "model"))
    name = "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
    tensors[name] = tensors[name] + np.float32(1e6)
    folder = copied(encoder_folder, tmp_path / "x", tensors)
    with pytest.raises(WeightError, match="does not fit into float16"):
        load_text_encoder(folder, ms.float16)
    streamed = load_text_encoder(folder, ms.float16, streamed=True)
    ids = np.zeros((1, 4), np.int32)
    with pytest.raises(ValueError, match=r"cannot represent the values of blocks.1.mlp.gate"):
        streamed.embed(ids, np.ones((1, 4), np.int32))
