"""The workload `t2v` of `tools/benchmark.py`: one guided step of the text-to-video network.

Latte-1's configuration with random weights; a batch of the negative prompt and the prompt, combined
by classifier-free guidance. Each side imports its own framework only.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

TOKENS, CHANNELS = 120, 4096  # of the prompt embeddings
GUIDANCE = 7.5
TIMESTEP = 500


def inputs(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents of one video, timesteps of both halves, and the embeddings of both prompts."""
    rng = np.random.default_rng(0)
    side = options.size // 8
    x = rng.standard_normal((1, 4, 16, side, side), np.float32)
    return x, np.full(2, TIMESTEP, np.int64), rng.standard_normal((2, TOKENS, CHANNELS), np.float32)


def ours(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """The pipelines' step; keys and values of the prompts are computed once, before it."""
    import mindspore as ms
    from mindspore import Tensor

    from latte_ms import runtime
    from latte_ms.generation.denoising import TextContext, denoiser_of
    from latte_ms.transformer.latte_t2v import LatteT2V
    from latte_ms.transformer.t2v_configuration import LatteT2VConfig

    runtime.setup(runtime.RuntimeConfig(options.device, options.precision))
    config = LatteT2VConfig(num_layers=options.layers)
    network = LatteT2V(config, runtime.compute_dtype(options.precision)).set_train(False)
    x, t, embeddings = inputs(options)
    keys, values = TextContext(network)(Tensor(embeddings))
    conditions = {
        "keys": keys,
        "values": values,
        "mask": Tensor(np.ones((2, TOKENS), np.int32)),
        "guidance_scale": Tensor(GUIDANCE, ms.float32),
    }
    denoiser = denoiser_of(network, guided=True, keep_variance=False, temporal=True)
    latents, time = Tensor(x.transpose(0, 2, 1, 3, 4)), Tensor(t[:1].astype(np.float32))

    def run() -> None:
        denoiser(latents, time, **conditions).asnumpy()

    return run


def torch_side(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """The step with diffusers' network, eager; it projects the prompt embeddings in every step."""
    import torch
    from diffusers import LatteTransformer3DModel

    from latte_ms.transformer.t2v_configuration import LatteT2VConfig

    fields: dict[str, Any] = LatteT2VConfig(num_layers=options.layers).to_dict()
    del fields["_class_name"]
    torch.manual_seed(0)
    network = LatteTransformer3DModel(**fields).eval()
    x, t, embeddings = (torch.from_numpy(array) for array in inputs(options))

    def run() -> None:
        with torch.no_grad():
            y = network(torch.cat([x, x]), t, embeddings, return_dict=False)[0]
            negative, positive = y.chunk(2)
            (negative + GUIDANCE * (positive - negative))[:, :4].numpy()

    return run
