"""The autoencoders against diffusers' own, on random weights."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from latte_ms.vae.codec import Codec
from latte_ms.vae.tiling import tiled
from latte_ms.weights.pretrained import load_autoencoder, save_pretrained


def reference_autoencoder(
    widths: tuple[int, ...], layers: int, groups: int, folder: Path, sample_size: int = 32
):
    """A diffusers autoencoder with seeded random weights, norms included, saved in `folder`."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=groups,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=4,
        sample_size=sample_size,
    )
    return saved(network, folder)


def reference_temporal_decoder(widths: tuple[int, ...], layers: int, folder: Path):
    """The same for diffusers' autoencoder with a temporal decoder."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        latent_channels=4,
    )
    return saved(network, folder)


def saved(network, folder: Path):
    """The network, saved, with norms and mixing factors that differ from their initial values."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "mix_factor" in name:
                parameter.add_(torch.randn_like(parameter))
    network.save_pretrained(folder)
    return network.eval()


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def check(
    network,
    folder: Path,
    height: int,
    width: int,
    frames: int,
    tile_size: int | None = None,
    **options: int,
) -> None:
    """Encoded mean and standard deviation, and decoded pixels, within 1e-4 of the largest."""
    rng = np.random.default_rng(0)
    autoencoder = load_autoencoder(folder)
    if tile_size is not None:
        autoencoder.enable_tiling(tile_size=tile_size)
    codec = Codec(autoencoder, frames_per_chunk=frames)
    scale = codec.config.scaling_factor
    pixels = rng.uniform(-1, 1, (1, frames, 3, height, width)).astype(np.float32)
    factor = codec.config.downsampling
    shape = (1, frames, 4, height // factor, width // factor)
    latents = rng.standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        posterior = network.encode(torch.from_numpy(pixels[0])).latent_dist
        decoded = network.decode(torch.from_numpy(latents[0]) / scale, **options).sample.numpy()
    mean = codec.encode(pixels)[0] / scale
    sampled = codec.encode(pixels, np.ones(shape, np.float32))[0] / scale
    assert relative_error(mean, posterior.mean.numpy()) <= 1e-4
    assert relative_error(sampled - mean, posterior.std.numpy()) <= 1e-4
    assert relative_error(codec.decode(latents)[0], decoded) <= 1e-4


def test_tiny_autoencoder(tmp_path: Path) -> None:
    """Changing numbers of channels need the 1 x 1 convolutions; images that are not square."""
    network = reference_autoencoder((8, 16), 1, 4, tmp_path)
    check(network, tmp_path, 16, 24, frames=2)


@pytest.mark.slow
def test_stable_diffusion_size(tmp_path: Path) -> None:
    network = reference_autoencoder((128, 256, 512, 512), 2, 32, tmp_path)
    check(network, tmp_path, 256, 256, frames=1)


def test_tiny_temporal_decoder(tmp_path: Path) -> None:
    """Two layers, so the attention is applied; and diffusers loads what is saved here."""
    network = reference_temporal_decoder((32, 64), 2, tmp_path / "theirs")
    check(network, tmp_path / "theirs", 8, 12, frames=3, num_frames=3)
    save_pretrained(load_autoencoder(tmp_path / "theirs"), tmp_path / "ours")
    again = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(tmp_path / "ours")
    expected = network.state_dict()
    assert set(again.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    for name, value in network.config.items():  # sequences come back from the file as lists
        if not name.startswith("_"):
            result = again.config[name]
            assert result == (list(value) if isinstance(value, tuple) else value), name


@pytest.mark.slow
def test_temporal_decoder_of_latte_1(tmp_path: Path) -> None:
    """Four frames of 256 x 256 pixels."""
    network = reference_temporal_decoder((128, 256, 512, 512), 2, tmp_path)
    check(network, tmp_path, 256, 256, frames=4, num_frames=4)


class Uneven(torch.nn.Module):
    """Doubles or halves images, and adds a term that depends on the whole tile and the position."""

    def __init__(self, resize: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, tile: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(uneven(tile.numpy(), self.resize))


def uneven(tile: np.ndarray, resize: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    place = np.arange(tile.shape[2])[:, None] + 0.1 * np.arange(tile.shape[3])
    return resize((tile * tile.mean() + place).astype(np.float32))


def doubled(tile: np.ndarray) -> np.ndarray:
    return tile.repeat(2, 2).repeat(2, 3)


def halved(tile: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tile[:, :, ::2, ::2])


@pytest.mark.parametrize("size", [(8, 10), (20, 20), (26, 14), (9, 33), (16, 62)])
def test_tiles_are_split_and_blended_as_in_diffusers(size: tuple[int, int]) -> None:
    """diffusers' own loops around a network that shows every seam, in tiles of 8 x 8 latents."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.enable_tiling()
    vae.encoder, vae.decoder = Uneven(halved), Uneven(doubled)
    latents = np.random.default_rng(0).standard_normal((2, 8, *size)).astype(np.float32)
    pixels = doubled(latents)
    with torch.no_grad():
        decoded = vae.decode(torch.from_numpy(latents)).sample.numpy()
        encoded = vae.encode(torch.from_numpy(pixels)).latent_dist.parameters.numpy()
    result = tiled(lambda tile: uneven(tile, doubled), latents, 8, 16)
    np.testing.assert_allclose(result, decoded, rtol=0, atol=1e-6 * np.abs(decoded).max())
    result = tiled(lambda tile: uneven(tile, halved), pixels, 16, 8)
    np.testing.assert_allclose(result, encoded, rtol=0, atol=1e-6 * np.abs(encoded).max())


@pytest.mark.slow
def test_tiled_autoencoder(tmp_path: Path) -> None:
    """Tiles in rows and columns, in four shapes for each direction, and in slices."""
    network = reference_autoencoder((8, 16), 1, 4, tmp_path, sample_size=16)
    network.enable_tiling()
    network.enable_slicing()
    check(network, tmp_path, 20, 24, frames=2, tile_size=16)
