"""The benchmark `text` of `tools/benchmark.py`: one prompt of 120 tokens through T5.

The encoder is read from `--folder`; `tools/random_t5.py` writes one of the size
that Latte-1 has. Each framework is imported only by its own side.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

TOKENS, PROMPT_TOKENS = 120, 20


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Token ids and the mask of a prompt, (1, 120) int32."""
    mask = (np.arange(TOKENS) < PROMPT_TOKENS).astype(np.int32)[None]
    ids = np.random.default_rng(0).integers(2, 30000, (1, TOKENS), dtype=np.int32) * mask
    return ids, mask


def ours(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """Weights in float16 with products in `--precision`, or streamed with `--streamed`."""
    import mindspore as ms

    from latte_ms import runtime
    from latte_ms.weights.pretrained import load_text_encoder

    folder = _folder(options)
    runtime.setup(runtime.RuntimeConfig(options.device, options.precision))
    dtype = runtime.compute_dtype(options.precision)
    parameter_dtype = None if options.streamed else ms.float16
    encoder = load_text_encoder(folder, dtype, parameter_dtype, streamed=options.streamed)
    ids, mask = inputs()

    def run() -> None:
        encoder.embed(ids, mask)

    return run


def torch_side(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """transformers' encoder with weights in bfloat16, eager."""
    import torch
    from transformers import T5EncoderModel

    network = T5EncoderModel.from_pretrained(_folder(options), dtype=torch.bfloat16).eval()
    ids, mask = (torch.from_numpy(array).long() for array in inputs())

    def run() -> None:
        with torch.no_grad():
            network(ids, mask)[0].float().numpy()

    return run


def _folder(options: argparse.Namespace) -> str:
    if not options.folder:
        sys.exit("`text` needs --folder, which `tools/random_t5.py` may have written.")
    return str(options.folder)
