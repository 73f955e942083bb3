"""The text encoder of the moving shapes: made again bit for bit, with a token for each word."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.moving_shapes import make_text_encoder
from latte_ms.text import PromptEncoder, load_tokenizer
from latte_ms.weights.pretrained import load_text_encoder

SHIPPED = Path(__file__).parents[3] / "configs" / "shapes" / "weights" / "t2v"


def test_the_shipped_files_are_what_the_script_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["make_text_encoder.py", "--target", str(tmp_path / "made")])
    assert make_text_encoder.main() == 0
    for name in ("tokenizer/spiece.model", "tokenizer/tokenizer_config.json"):
        assert (tmp_path / "made" / name).read_bytes() == (SHIPPED / name).read_bytes()
    made = load_file(tmp_path / "made" / "text_encoder" / "model.safetensors")
    shipped = load_file(SHIPPED / "text_encoder" / "model.safetensors")
    assert made.keys() == shipped.keys()
    assert all(np.array_equal(made[name], shipped[name]) for name in shipped)
    assert make_text_encoder.main() == 2
    assert "`--target` holds one already" in capsys.readouterr().err


def test_captions_are_told_apart() -> None:
    """By a token for each word, and by embeddings that differ by a part of their size."""
    captions = make_text_encoder.captions()
    assert len(set(captions)) == 6 * 4 * 8
    tokenizer = load_tokenizer(SHIPPED / "tokenizer")
    for caption in captions:
        assert len(tokenizer.encode(caption)) == len(caption.split())  # type: ignore[attr-defined]
    captions = captions[::7]  # all colours, shapes and motions
    network = load_text_encoder(SHIPPED / "text_encoder")
    rows, mask = PromptEncoder(tokenizer, network).encode(captions)
    assert mask.sum(1).max() == 9, "the end token included"
    flat = (rows * mask[..., None])[:, :9].reshape(len(captions), -1)
    distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    distances[np.diag_indices(len(captions))] = np.inf
    assert distances.min() > 0.1 * np.linalg.norm(flat, axis=1).mean()
