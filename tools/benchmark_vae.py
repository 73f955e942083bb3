"""The benchmarks of `tools/benchmark.py` for autoencoders: images to latents and back.

Stable Diffusion's sizes with random weights, `--batch` frames of `--size` x `--size` pixels at a
time. Each framework is imported only by its own side.
"""

import argparse
from collections.abc import Callable

import numpy as np

DOWNSAMPLING, LATENT_CHANNELS = 8, 4


def inputs(name: str, options: argparse.Namespace) -> np.ndarray:
    """Pixels in [-1, 1], or latents, of one video: (1, F, C, H, W)."""
    rng = np.random.default_rng(0)
    if name == "encode":
        shape = (1, options.batch, 3, options.size, options.size)
        return rng.uniform(-1, 1, shape).astype(np.float32)
    side = options.size // DOWNSAMPLING
    return rng.standard_normal((1, options.batch, LATENT_CHANNELS, side, side), np.float32)


def ours(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """The codec that pipelines use."""
    from latte_ms import runtime
    from latte_ms.vae.autoencoder import AutoencoderKL
    from latte_ms.vae.codec import Autoencoder, Codec
    from latte_ms.vae.configuration import AutoencoderConfig, TemporalDecoderConfig
    from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder

    runtime.setup(runtime.RuntimeConfig(options.device, options.precision))
    dtype = runtime.compute_dtype(options.precision)
    network: Autoencoder
    if name == "decode-temporal":
        network = AutoencoderKLTemporalDecoder(TemporalDecoderConfig(), dtype)
    else:
        network = AutoencoderKL(AutoencoderConfig(), dtype)
    network.set_train(False)
    codec = Codec(network, frames_per_chunk=options.batch)
    run_codec = codec.encode if name == "encode" else codec.decode
    x = inputs(name, options)

    def run() -> None:
        run_codec(x)

    return run


def torch_side(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """diffusers' autoencoders, eager."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

    torch.manual_seed(0)
    channels = (128, 256, 512, 512)
    sizes = {"block_out_channels": channels, "layers_per_block": 2, "latent_channels": 4}
    sizes["down_block_types"] = ("DownEncoderBlock2D",) * len(channels)
    if name == "decode-temporal":
        network = AutoencoderKLTemporalDecoder(**sizes).eval()
    else:
        network = AutoencoderKL(
            **sizes, up_block_types=("UpDecoderBlock2D",) * len(channels)
        ).eval()
    x = torch.from_numpy(inputs(name, options)[0])

    def run() -> None:
        with torch.no_grad():
            if name == "encode":
                network.encode(x).latent_dist.mode().numpy()
            elif name == "decode":
                network.decode(x).sample.numpy()
            else:
                network.decode(x, num_frames=len(x)).sample.numpy()

    return run
