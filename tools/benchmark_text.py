"""The workload `text` of `tools/benchmark.py`: one prompt of 120 tokens through a T5 encoder.

The encoder is read from `--folder`; `tools/random_t5.py` writes one of Latte-1's size. Each side
imports its own framework only.
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
    """Weights kept in float16, or read from disk block by block with `--streamed`."""
    import mindspore as ms

    from latte_ms import runtime
    from latte_ms.weights.pretrained import load_text_encoder

    folder = _folder(options)
    runtime.setup(runtime.RuntimeConfig(options.device, options.precision))
    dtype = runtime.compute_dtype(options.precision)
    parameter_dtype = None if options.streamed else ms.float16
    encoder = load_text_encoder(folder, dtype, parameter_dtype, streamed=options.streamed)
    batch = inputs()

    def run() -> None:
        encoder.embed(*batch)

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
        sys.exit("`text` needs --folder, which `tools/random_t5.py` can write.")
    return str(options.folder)
