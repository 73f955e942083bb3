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
    """pixels -> mean, std and latents -> decoded, of images one and a half tiles wide."""
    with np.load(reference / "tiling" / "io.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def codec(reference: Path) -> Codec:
    autoencoder = load_autoencoder(reference / "tiling")
    autoencoder.enable_tiling()
    return Codec(autoencoder, frames_per_chunk=2)


@pytest.fixture
def autoencoder(tiny_autoencoder: AutoencoderKL) -> AutoencoderKL:
    """One whose settings a test may change."""
    return AutoencoderKL(tiny_autoencoder.config, seed=None)


@pytest.mark.slow
def test_diffusers_tiled_encode(codec: Codec, wide: dict[str, np.ndarray]) -> None:
    noise = RNG.standard_normal(wide["mean"].shape, np.float32)
    latents = codec.encode(wide["pixels"][None], noise[None])[0]
    expected = codec.config.scaling_factor * (wide["mean"] + wide["std"] * noise)
    np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_diffusers_tiled_decode(codec: Codec, wide: dict[str, np.ndarray]) -> None:
    latents = wide["latents"] * np.float32(codec.config.scaling_factor)
    pixels, expected = codec.decode(latents[None])[0], wide["decoded"]
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (13, 5), (14, 20), (31, 26)])
def test_what_acts_on_single_pixels_does_not_see_tiles(size: tuple[int, int]) -> None:
    images = RNG.standard_normal((2, 3, *size)).astype(np.float32)
    result = tiled(doubled, images, 8, 16)
    np.testing.assert_allclose(result, doubled(images), rtol=0, atol=1e-6)


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


def test_small_images_are_one_tile() -> None:
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
    message = rf"`tile_size` must be a multiple of 8 pixels, 4 latent pixels, got {size}"
    with pytest.raises(ValueError, match=message):
        autoencoder.enable_tiling(tile_size=size)
    assert autoencoder.tile_size is None


def test_settings_are_the_autoencoders(autoencoder: AutoencoderKL) -> None:
    """Under diffusers' names; all codecs of an autoencoder read them at each call."""
    autoencoder.enable_tiling(tile_size=16)
    autoencoder.enable_slicing()
    assert autoencoder.tile_size == 16
    assert autoencoder.slicing
    autoencoder.disable_tiling()
    autoencoder.disable_slicing()
    assert autoencoder.tile_size is None
    assert not autoencoder.slicing
    autoencoder.enable_tiling()
    assert autoencoder.tile_size == autoencoder.config.sample_size
    autoencoder.enable_tiling(False)
    assert autoencoder.tile_size is None
    with pytest.raises(ValueError, match="`use_tiling` must be True or False, got 256"):
        autoencoder.enable_tiling(256)


def test_settings_act_on_codecs_that_exist(
    autoencoder: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int | None]] = []

    def record(latents: np.ndarray, tile_size: int | None) -> np.ndarray:
        calls.append((len(latents), tile_size))
        return np.zeros((len(latents), 3, 8, 8), np.float32)

    codecs = [Codec(autoencoder) for _ in range(2)]
    for codec in codecs:
        monkeypatch.setattr(codec, "_decode_frames", record)
    latents = np.zeros((1, 2, 4, 4, 4), np.float32)
    for codec in codecs:
        codec.decode(latents)
    autoencoder.enable_tiling(tile_size=16)
    autoencoder.enable_slicing()
    for codec in codecs:
        codec.decode(latents)
    assert calls == [(2, None)] * 2 + [(1, 16)] * 4


@pytest.mark.slow
def test_a_codec_can_be_stored_with_its_network(autoencoder: AutoencoderKL) -> None:
    """`shared_objects` belongs to one network, and holding a codec there changes nothing."""
    other = AutoencoderKL(autoencoder.config, seed=None)
    names = list(autoencoder.parameters_dict())
    autoencoder.shared_objects["codec"] = Codec(autoencoder)
    assert other.shared_objects == {}
    assert list(autoencoder.parameters_dict()) == names
    pixels = autoencoder.shared_objects["codec"].decode(np.zeros((1, 1, 4, 2, 2), np.float32))
    assert pixels.shape == (1, 1, 3, 4, 4)
