"""The autoencoder against diffusers' `AutoencoderKL` itself, on random weights."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def reference_autoencoder(widths: tuple[int, ...], layers: int, groups: int, folder: Path):
    """A diffusers autoencoder with seeded random weights, norms included, saved in `folder`."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=groups,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=4,
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return network.eval()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check(network, folder: Path, height: int, width: int, frames: int) -> None:
    """Encoded mean and standard deviation, and decoded pixels, within 1e-4 of the largest."""
    rng = np.random.default_rng(0)
    codec = Codec(load_autoencoder(folder), frames_per_chunk=frames)
    scale = codec.config.scaling_factor
    pixels = rng.uniform(-1, 1, (1, frames, 3, height, width)).astype(np.float32)
    factor = codec.config.downsampling
    shape = (1, frames, 4, height // factor, width // factor)
    latents = rng.standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        posterior = network.encode(torch.from_numpy(pixels[0])).latent_dist
        decoded = network.decode(torch.from_numpy(latents[0]) / scale).sample.numpy()
    mean = codec.encode(pixels)[0] / scale
    sampled = codec.encode(pixels, np.ones(shape, np.float32))[0] / scale
    assert relative_error(mean, posterior.mean.numpy()) <= 1e-4
    assert relative_error(sampled - mean, posterior.std.numpy()) <= 1e-4
    assert relative_error(codec.decode(latents)[0], decoded) <= 1e-4


def test_tiny_autoencoder(tmp_path: Path) -> None:
    """Widths that change need the 1 x 1 convolutions; a picture that is not square."""
    network = reference_autoencoder((8, 16), 1, 4, tmp_path)
    check(network, tmp_path, 16, 24, frames=2)


@pytest.mark.slow
def test_stable_diffusion_size(tmp_path: Path) -> None:
    network = reference_autoencoder((128, 256, 512, 512), 2, 32, tmp_path)
    check(network, tmp_path, 256, 256, frames=1)
