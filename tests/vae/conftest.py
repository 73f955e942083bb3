"""The tiny autoencoder whose outputs diffusers computed, and a smaller one for everything else."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig, TemporalDecoderConfig
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from latte_ms.weights.pretrained import load_autoencoder


@pytest.fixture(scope="session")
def diffusers_arrays(reference: Path) -> dict[str, np.ndarray]:
    """vae_image -> vae_mean, vae_std; vae_mean -> vae_decode."""
    with np.load(reference / "vae" / "io.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def diffusers_codec(reference: Path) -> Codec:
    return Codec(load_autoencoder(reference / "vae"), frames_per_chunk=2)


@pytest.fixture(scope="session")
def tiny_autoencoder() -> AutoencoderKL:
    config = AutoencoderConfig(
        block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, scaling_factor=0.5
    )
    return AutoencoderKL(config, seed=1)


@pytest.fixture(scope="session")
def tiny_temporal() -> AutoencoderKLTemporalDecoder:
    """One latent per pixel, 32 channels, for each normalisation has 32 groups."""
    config = TemporalDecoderConfig(
        block_out_channels=(32,), layers_per_block=1, scaling_factor=0.5, sample_size=4
    )
    return AutoencoderKLTemporalDecoder(config, seed=1)
