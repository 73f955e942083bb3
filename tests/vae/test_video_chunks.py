"""Chunks of a temporal decoder: runs of frames of one video, or the reference's runs of a batch."""

import numpy as np
import pytest

from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder

LATENTS = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def codec(tiny_temporal: AutoencoderKLTemporalDecoder) -> Codec:
    return Codec(tiny_temporal, frames_per_chunk=2)


@pytest.fixture(scope="module")
def decoded(codec: Codec) -> np.ndarray:
    return codec.decode(LATENTS)


@pytest.mark.slow
def test_a_video_does_not_depend_on_the_batch(codec: Codec, decoded: np.ndarray) -> None:
    for video, expected in zip(LATENTS, decoded, strict=True):
        np.testing.assert_array_equal(codec.decode(video[None])[0], expected)


def test_chunks_follow_one_another_in_time(codec: Codec, decoded: np.ndarray) -> None:
    """Two frames, then the last by itself: frames 0 and 1 depend on each other, 2 on no other."""
    first, last = codec.decode(LATENTS[:, :2]), codec.decode(LATENTS[:, 2:])
    np.testing.assert_array_equal(np.concatenate((first, last), 1), decoded)
    changed = LATENTS.copy()
    changed[:, 0] += 1
    moved = np.abs(codec.decode(changed) - decoded).max((2, 3, 4))
    assert (moved[:, 1] > 1e-3).all()
    assert (moved[:, 2] == 0).all()


def test_mixed_videos_are_the_references_chunks(codec: Codec, decoded: np.ndarray) -> None:
    """Frames 2 of the first video and 0 of the second share a chunk."""
    whole = LATENTS.reshape(1, 6, *LATENTS.shape[2:])
    mixed = codec.decode(LATENTS, mix_videos=True)
    np.testing.assert_array_equal(mixed, codec.decode(whole).reshape(mixed.shape))
    np.testing.assert_array_equal(codec.decode(LATENTS), decoded)  # the next call does not mix
    np.testing.assert_array_equal(mixed[0, :2], decoded[0, :2])
    assert np.abs(mixed[0, 2] - decoded[0, 2]).max() > 1e-3
    assert np.abs(mixed[1, 0] - decoded[1, 0]).max() > 1e-3


def test_chunk_size_of_one_call(codec: Codec) -> None:
    frames = codec.decode(LATENTS[:1, :2], frames_per_chunk=1)
    apart = [codec.decode(LATENTS[:1, i : i + 1]) for i in range(2)]
    np.testing.assert_array_equal(frames, np.concatenate(apart, 1))
    with pytest.raises(ValueError, match="`frames_per_chunk` must be at least 1, got 0"):
        codec.decode(LATENTS, frames_per_chunk=0)
    with pytest.raises(ValueError, match="at least one frame"):
        codec.decode(LATENTS[:, :0])


def test_slicing_takes_one_image_at_a_time(
    tiny_autoencoder: AutoencoderKL,
    tiny_temporal: AutoencoderKLTemporalDecoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As diffusers' enable_slicing; a temporal decoder still sees its frames together."""
    for autoencoder, sizes in ((tiny_autoencoder, {1}), (tiny_temporal, {4, 2})):
        monkeypatch.setattr(autoencoder, "slicing", True)
        codec, seen = Codec(autoencoder, frames_per_chunk=4), []

        def record(chunk: np.ndarray, tile_size: None, seen: list[int] = seen) -> np.ndarray:
            seen.append(len(chunk))
            return np.zeros((len(chunk), 3, 8, 8), np.float32)

        monkeypatch.setattr(codec, "_decode_frames", record)
        side = 8 // codec.config.downsampling
        codec.decode(np.zeros((1, 6, 4, side, side), np.float32))
        assert set(seen) == sizes
