"""Make this folder from one that upstream's code recorded with texts of 77 tokens of 768 numbers.

    python tests/reference/latte_text/make_latte_text.py RECORDED   (needs torch)

The projection of such a text is most of the checkpoint. Here it is cut to `TOKENS` x `WIDTH`, and
the text is one whose projection is the recorded one. The network behind it cannot tell, so that
the outputs stay those that upstream computed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
TOKENS, WIDTH = 12, 40
PROJECTION = "text_embedding_projection.1.weight"
SCALE = 8  # so that a shorter text has an effect as large; a power of two rounds nothing


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def silu_slope(x: np.ndarray) -> np.ndarray:
    sigmoid = 1 / (1 + np.exp(-x))
    return sigmoid * (1 + x * (1 - sigmoid))


def text_with(projected: np.ndarray, matrix: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The text x near `start` (K,) with `matrix` silu(x) = `projected`, by Newton's method."""
    x = start
    for _ in range(20):
        error = projected - matrix @ silu(x)
        x = x + np.linalg.lstsq(matrix * silu_slope(x), error, rcond=None)[0]
    np.testing.assert_allclose(matrix @ silu(x), projected, rtol=0, atol=1e-12)
    return x


def main(recorded: Path) -> None:
    config = json.loads((recorded / "config.json").read_text())
    weights = torch.load(recorded / "checkpoint.pt", weights_only=True)["ema"]
    with np.load(recorded / "io.npz") as file:
        arrays = dict(file)
    whole = weights[PROJECTION]
    text = arrays["text_embedding"].astype(np.float64)
    projected = silu(text.reshape(len(text), -1)) @ whole.double().numpy().T
    cut = whole.reshape(len(whole), *text.shape[1:])[:, :TOKENS, :WIDTH] * SCALE
    weights[PROJECTION] = cut.reshape(len(whole), -1).clone()
    matrix = weights[PROJECTION].double().numpy()
    starts = text[:, :TOKENS, :WIDTH].reshape(len(text), -1)
    texts = [text_with(row, matrix, start) for row, start in zip(projected, starts, strict=True)]
    arrays["text_embedding"] = np.float32(texts).reshape(len(text), TOKENS, WIDTH)
    torch.save({"ema": weights}, HERE / "checkpoint.pt")
    np.savez_compressed(HERE / "io.npz", **arrays)
    fields = json.dumps(config | {"text_tokens": TOKENS, "text_width": WIDTH}, indent=1)
    (HERE / "config.json").write_text(fields + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
