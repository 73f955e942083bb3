"""Text encoders as others publish them: torch's files, tied names, whole T5s."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.pretrained import load_text_encoder
from tools import convert_checkpoint

TABLE, TWIN = "shared.weight", "encoder.embed_tokens.weight"


@pytest.fixture
def torch_folder(reference: Path, tmp_path: Path) -> Path:
    """A folder as torch left it: config.json and pytorch_model.bin, in which a table has two names.

    Its `io.npz` has ids (1, 10) and what transformers made of them, out (1, 10, 32).
    """
    return Path(shutil.copytree(reference / "t5_bin", tmp_path / "torch"))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_bin_leads_to_an_encoder(torch_folder: Path, streamed: bool) -> None:
    source = torch_folder / "pytorch_model.bin"
    tensors = weights.read(source)
    assert tensors[TABLE].tobytes() == tensors[TWIN].tobytes()
    options = ["--source", str(source), "--target", str(torch_folder)]
    assert convert_checkpoint.main(options) == 0
    assert (torch_folder / "model.safetensors").is_file()
    encoder = load_text_encoder(torch_folder, streamed=streamed)
    with np.load(torch_folder / "io.npz") as arrays:
        ids, expected = arrays["ids"].astype(np.int32), arrays["out"]
    assert np.abs(encoder.embed(ids, np.ones_like(ids)) - expected).max() < 1e-5


@pytest.mark.parametrize("streamed", [False, True])
def test_tied_names_must_be_equal(
    torch_folder: Path, streamed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = dict(weights.read(torch_folder / "pytorch_model.bin"))
    weights.write(torch_folder, {"model": from_arrays(arrays)})
    load_text_encoder(torch_folder, streamed=streamed)  # both names in one safetensors file
    arrays[TWIN] = arrays[TWIN] * np.float32(2)
    weights.write(torch_folder, {"model": from_arrays(arrays)})
    message = f"`{TABLE}` and `{TWIN}` are two names of one tensor, and differ in values"
    with pytest.raises(WeightError, match=message) as raised:
        load_text_encoder(torch_folder, streamed=streamed)
    assert str(torch_folder) in str(raised.value)
    weights.write(torch_folder / "bad.bin", {"": from_arrays(arrays)})
    options = ["--source", str(torch_folder / "bad.bin"), "--target", str(torch_folder / "x.ckpt")]
    assert convert_checkpoint.main(options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("streamed", [False, True])
def test_the_encoder_of_a_whole_t5_is_taken(
    torch_folder: Path, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = dict(weights.read(torch_folder / "pytorch_model.bin"))
    others = {name.replace("encoder.", "decoder."): a for name, a in arrays.items()}
    del others[TABLE]
    others["lm_head.weight"] = arrays[TABLE]
    weights.write(torch_folder, {"model": from_arrays(arrays | others)})
    with caplog.at_level(logging.WARNING):
        encoder = load_text_encoder(torch_folder, streamed=streamed)
    assert f"{len(others)} tensors are left out" in caplog.text
    assert "`decoder.embed_tokens.weight`" in caplog.text
    table = encoder.weights["shared.weight"] if streamed else encoder.shared.weight.asnumpy()
    assert np.array_equal(table, arrays[TABLE])
    # A .ckpt of the encoder alone.
    options = ["--source", str(torch_folder / "model.safetensors")]
    assert convert_checkpoint.main([*options, "--target", str(torch_folder / "x.ckpt")]) == 0
    assert "positions.weight" in weights.read(torch_folder / "x.ckpt")
