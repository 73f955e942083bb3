"""Shapes, chunks, noise and the scaling factor at the boundary of pixels and latents."""

import numpy as np
import pytest

from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec

RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(-1, 1, (1, 5, 3, 8, 8)).astype(np.float32)
LATENTS = RNG.standard_normal((1, 5, 4, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def codec(tiny_autoencoder: AutoencoderKL) -> Codec:
    """Two chunks of three frames for the arrays above, the last one padded."""
    return Codec(tiny_autoencoder, frames_per_chunk=4)


@pytest.fixture(scope="module")
def frame_by_frame(tiny_autoencoder: AutoencoderKL) -> Codec:
    return Codec(tiny_autoencoder, frames_per_chunk=1)


@pytest.mark.slow
def test_diffusers_mean(diffusers_codec: Codec, diffusers_arrays: dict[str, np.ndarray]) -> None:
    latents = diffusers_codec.encode(diffusers_arrays["vae_image"][None])
    expected = diffusers_arrays["vae_mean"][None] * 0.18215
    np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_diffusers_standard_deviation(
    diffusers_codec: Codec, diffusers_arrays: dict[str, np.ndarray]
) -> None:
    noise = RNG.standard_normal((1, 2, 4, 8, 8)).astype(np.float32)
    latents = diffusers_codec.encode(diffusers_arrays["vae_image"][None], noise)
    expected = (diffusers_arrays["vae_mean"] + diffusers_arrays["vae_std"] * noise) * 0.18215
    np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_diffusers_decode(diffusers_codec: Codec, diffusers_arrays: dict[str, np.ndarray]) -> None:
    pixels = diffusers_codec.decode(diffusers_arrays["vae_mean"][None] * np.float32(0.18215))
    expected = diffusers_arrays["vae_decode"][None]
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_chunks_change_nothing(codec: Codec, frame_by_frame: Codec) -> None:
    np.testing.assert_allclose(codec.encode(PIXELS), frame_by_frame.encode(PIXELS), atol=1e-5)
    np.testing.assert_allclose(codec.decode(LATENTS), frame_by_frame.decode(LATENTS), atol=1e-5)
    ours, theirs = (c.encode(PIXELS, np.random.default_rng(3)) for c in (codec, frame_by_frame))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("limit", "count", "expected"), [(4, 5, 3), (16, 17, 9), (4, 3, 3)])
def test_all_chunks_have_one_even_shape(
    tiny_autoencoder: AutoencoderKL,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    count: int,
    expected: int,
) -> None:
    codec, seen = Codec(tiny_autoencoder, limit), []

    def record(latents: np.ndarray, tile_size: None) -> np.ndarray:
        seen.append(latents.shape[0])
        return latents[:, :3].repeat(2, 2).repeat(2, 3)

    monkeypatch.setattr(codec, "_decode_frames", record)
    frames = np.arange(count, dtype=np.float32).reshape(1, count, 1, 1, 1)
    pixels = codec.decode(np.broadcast_to(frames, (1, count, 4, 1, 1)))
    np.testing.assert_array_equal(pixels, np.broadcast_to(frames, pixels.shape))
    assert set(seen) == {expected}


@pytest.mark.slow
def test_noise_is_drawn_per_video(codec: Codec) -> None:
    drawn = codec.encode(PIXELS, np.random.default_rng(3))
    given = np.random.default_rng(3).standard_normal(LATENTS.shape, np.float32)
    np.testing.assert_array_equal(drawn, codec.encode(PIXELS, given))
    assert np.abs(drawn - codec.encode(PIXELS)).max() > 0.1


def test_errors_name_the_shape(codec: Codec, tiny_autoencoder: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match=r"`frames_per_chunk` must be at least 1, got 0"):
        Codec(tiny_autoencoder, 0)
    with pytest.raises(ValueError, match=r"`pixels` must be \(B, F, 3, H, W\), got \(5, 3, 8, 8\)"):
        codec.encode(PIXELS[0])
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], got uint8"):
        codec.encode(np.zeros(PIXELS.shape, np.uint8))
    with pytest.raises(ValueError, match="divisible by 2, got 7, 8"):
        codec.encode(PIXELS[:, :, :, :7])
    with pytest.raises(ValueError, match=r"`noise` must have the latents' shape \(1, 5, 4, 4, 4\)"):
        codec.encode(PIXELS, LATENTS[:, :4])
    with pytest.raises(ValueError, match=r"`latents` must be \(B, F, 4, h, w\), got"):
        codec.decode(LATENTS[:, :, :3])
    with pytest.raises(ValueError, match="at least one frame"):
        codec.decode(LATENTS[:, :0])
