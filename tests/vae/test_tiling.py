"""Tiles and their blending, against diffusers' results and by hand."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.tiling import tiled
from latte_ms.weights.pretrained import load_autoencoder

RNG = np.random.default_rng(0)


def doubled(tile: np.ndarray) -> np.ndarray:
    return tile.repeat(2, 2).repeat(2, 3)


@pytest.fixture(scope="module")
def wide(reference: Path) -> dict[str, np.ndarray]:
    """pixels -> mean, std and latents -> decoded, of pictures one and a half tiles wide."""
    with np.load(reference / "tiling" / "io.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def codec(reference: Path) -> Codec:
    network = load_autoencoder(reference / "tiling")
    return Codec(network, frames_per_chunk=2, tile_size=network.config.sample_size)


@pytest.fixture
def autoencoder(tiny_autoencoder: AutoencoderKL) -> AutoencoderKL:
    """One whose settings a test may change."""
    return AutoencoderKL(tiny_autoencoder.config, seed=None)


def test_diffusers_tiled_encode(codec: Codec, wide: dict[str, np.ndarray]) -> None:
    noise = RNG.standard_normal(wide["mean"].shape, np.float32)
    found = codec.encode(wide["pixels"][None], noise[None])[0]
    expected = codec.config.scaling_factor * (wide["mean"] + wide["std"] * noise)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_diffusers_tiled_decode(codec: Codec, wide: dict[str, np.ndarray]) -> None:
    latents = wide["latents"] * np.float32(codec.config.scaling_factor)
    found, expected = codec.decode(latents[None])[0], wide["decoded"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (13, 5), (14, 20), (31, 26)])
def test_what_acts_on_single_pixels_does_not_see_tiles(size: tuple[int, int]) -> None:
    pictures = RNG.standard_normal((2, 3, *size)).astype(np.float32)
    found = tiled(doubled, pictures, 8, 16)
    np.testing.assert_allclose(found, doubled(pictures), rtol=0, atol=1e-6)


def test_overlaps_fade_from_one_tile_to_the_next() -> None:
    """Tiles of 8 with step 6, each filled with its number: 2 columns fade, with weights 0, 1/2."""
    numbers = iter(range(100))

    def number(tile: np.ndarray) -> np.ndarray:
        return np.full_like(tile, next(numbers))

    row = tiled(number, np.zeros((1, 1, 6, 14), np.float32), 8, 8)[0, 0, 0]
    assert row.tolist() == [0, 0, 0, 0, 0, 0, 0, 0.5, 1, 1, 1, 1, 1, 1.5]
    numbers = iter(range(100))
    column = tiled(number, np.zeros((1, 1, 14, 6), np.float32), 8, 8)[0, 0, :, 0]
    assert column.tolist() == row.tolist()


def test_small_pictures_are_not_cut() -> None:
    shapes: list[tuple[int, ...]] = []

    def record(tile: np.ndarray) -> np.ndarray:
        shapes.append(tile.shape)
        return tile

    tiled(record, np.zeros((1, 2, 8, 7), np.float32), 8, 8)
    assert shapes == [(1, 2, 8, 7)]
    tiled(record, np.zeros((1, 2, 8, 9), np.float32), 8, 8)
    assert set(shapes[1:]) == {(1, 2, 8, 8), (1, 2, 8, 3), (1, 2, 2, 8), (1, 2, 2, 3)}


@pytest.mark.parametrize("size", [0, -8, 4, 12])
def test_tiles_are_whole_latents(autoencoder: AutoencoderKL, size: int) -> None:
    message = rf"`tile_size` must be a multiple of 8 pixels, 4 latents, got {size}"
    with pytest.raises(ValueError, match=message):
        Codec(autoencoder, tile_size=size)
    with pytest.raises(ValueError, match=message):
        autoencoder.enable_tiling(tile_size=size)
    assert autoencoder.tile_size is None


def test_settings_are_the_autoencoders(autoencoder: AutoencoderKL) -> None:
    """Under diffusers' names; a codec made with them sets them, and one made without does not."""
    first, second = Codec(autoencoder, tile_size=16, slicing=True), Codec(autoencoder)
    for codec in (first, second):
        assert codec.tile_size == autoencoder.tile_size == 16
        assert codec.slicing
        assert autoencoder.slicing
    autoencoder.disable_tiling()
    autoencoder.disable_slicing()
    assert first.tile_size is second.tile_size is None
    assert not first.slicing
    autoencoder.enable_tiling()
    autoencoder.enable_slicing()
    assert first.tile_size == autoencoder.config.sample_size
    assert first.slicing
    autoencoder.enable_tiling(False)
    assert first.tile_size is None
    with pytest.raises(ValueError, match="`use_tiling` must be True or False, got 256"):
        autoencoder.enable_tiling(256)
