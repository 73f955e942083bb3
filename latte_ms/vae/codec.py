"""Videos of pixels to scaled latents and back, in chunks of frames.

Shapes: B videos, F frames, C channels, H W pixels, Z latent channels, h w latents.
"""

import math
from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn

from latte_ms.vae.autoencoder import AutoencoderKL, EncodesPictures, sample
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from latte_ms.vae.tiling import tiled

Autoencoder = AutoencoderKL | AutoencoderKLTemporalDecoder


class Moments(nn.Cell):
    """Pixels (N, C, H, W) to moments (N, 2 Z, h, w), which tiles blend before they are sampled."""

    def __init__(self, autoencoder: EncodesPictures) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder

    def construct(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.moments(pixels)


class Draw(nn.Cell):
    """Moments (N, 2 Z, h, w) and noise (N, Z, h, w) to scaled latents (N, Z, h, w)."""

    def __init__(self, autoencoder: EncodesPictures) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.scale = autoencoder.config.scaling_factor

    def construct(self, moments: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.autoencoder.distribution(moments)
        return self.scale * sample(mean, log_variance, noise)


class Encode(nn.Cell):
    """Pixels (N, C, H, W) and noise (N, Z, h, w) to scaled latents (N, Z, h, w)."""

    def __init__(self, autoencoder: EncodesPictures) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.draw = Draw(autoencoder)

    def construct(self, pixels: Tensor, noise: Tensor) -> Tensor:
        return self.draw(self.autoencoder.moments(pixels), noise)


class Decode(nn.Cell):
    """Scaled latents (N, Z, h, w) to pixels (N, C, H, W)."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.inverse_scale = 1.0 / autoencoder.config.scaling_factor

    def construct(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(self.inverse_scale * latents)


class DecodeVideo(nn.Cell):
    """Scaled latents (N, Z, h, w), the frames of one video, to pixels (N, C, H, W)."""

    def __init__(self, autoencoder: AutoencoderKLTemporalDecoder) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.inverse_scale = 1.0 / autoencoder.config.scaling_factor

    def construct(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(self.inverse_scale * latents, latents.shape[0])


class Codec:
    """The boundary between pixels and the latents that the diffusion works on.

    The scaling factor is applied here and nowhere else. A graph is compiled for each shape of a
    chunk. Where frames are independent, all chunks of a call have one shape, the last filled up
    with zeros. A temporal decoder sees the frames of a chunk together, so its chunks are those of
    the reference, the last one shorter; a video is cut by itself, never together with the next.

    Args:
        frames_per_chunk: most frames in one graph call; bounds the memory.
        mix_videos: cut all videos of a batch as if they were one, as diffusers' pipeline does: a
            temporal decoder then mixes the end of one with the beginning of the next.
        slicing: one picture in a graph call, whatever `frames_per_chunk` is; for a temporal decoder
            this is about encoding alone. It is the autoencoder's setting, and set there where it is
            given.
        tile_size: pictures with a larger side, in pixels, are worked on in overlapping square tiles
            of this side; a multiple of 4 latents. A setting of the autoencoder's, too.
    Raises:
        ValueError: `frames_per_chunk` or `tile_size` breaks its rule.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        frames_per_chunk: int = 4,
        *,
        mix_videos: bool = False,
        slicing: bool | None = None,
        tile_size: int | None = None,
    ) -> None:
        self.autoencoder, self.config = autoencoder, autoencoder.config
        self.frames_per_chunk = _checked_chunk(frames_per_chunk)
        self.mix_videos = mix_videos
        if slicing is not None:
            autoencoder.slicing = slicing
        if tile_size is not None:
            autoencoder.enable_tiling(tile_size=tile_size)
        self.temporal = isinstance(autoencoder, AutoencoderKLTemporalDecoder)
        self._encode, self._moments = Encode(autoencoder), Moments(autoencoder)
        self._draw = Draw(autoencoder)
        self._decode = DecodeVideo(autoencoder) if self.temporal else Decode(autoencoder)

    @property
    def tile_size(self) -> int | None:
        """The autoencoder's: side of a tile in pixels, or None for whole pictures."""
        return self.autoencoder.tile_size

    @property
    def slicing(self) -> bool:
        """The autoencoder's: one picture at a time."""
        return self.autoencoder.slicing

    def encode(
        self,
        pixels: np.ndarray,
        noise: np.ndarray | np.random.Generator | None = None,
        frames_per_chunk: int | None = None,
    ) -> np.ndarray:
        """Pixels (B, F, C, H, W) in [-1, 1] to scaled latents (B, F, Z, h, w), float32.

        Args:
            noise: standard normal (B, F, Z, h, w), or a generator to draw it from, for a sample of
                the distribution; None for its mean.
            frames_per_chunk: for this call.
        Raises:
            ValueError: a shape does not fit, or pixels are integers.
        """
        batch, frames, height, width = self._check_pixels(pixels)
        size = self.config.downsampling
        z = self.config.latent_channels
        shape = (batch, frames, z, height // size, width // size)
        if noise is None:
            noise = np.zeros(shape, np.float32)
        elif isinstance(noise, np.random.Generator):
            noise = noise.standard_normal(shape, np.float32)
        elif noise.shape != shape:
            raise ValueError(f"`noise` must have the latents' shape {shape}, got {noise.shape}.")
        chunk = self._chunk(frames_per_chunk, alone=self.slicing)
        return _in_chunks(self._encode_pictures, chunk, pixels, noise).reshape(shape)

    def decode(self, latents: np.ndarray, frames_per_chunk: int | None = None) -> np.ndarray:
        """Scaled latents (B, F, Z, h, w) to pixels (B, F, C, H, W), about [-1, 1], float32.

        `frames_per_chunk` holds for this call. Raises ValueError for another shape.
        """
        z = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[2] != z:
            raise ValueError(f"`latents` must be (B, F, {z}, h, w), got {latents.shape}.")
        batch, frames, _, h, w = latents.shape
        size = self.config.downsampling
        if self.temporal:
            chunk = self._chunk(frames_per_chunk)
            pixels = _in_videos(self._decode_pictures, chunk, latents, self.mix_videos)
        else:
            chunk = self._chunk(frames_per_chunk, alone=self.slicing)
            pixels = _in_chunks(self._decode_pictures, chunk, latents)
        return pixels.reshape(batch, frames, self.config.out_channels, h * size, w * size)

    def _chunk(self, frames_per_chunk: int | None, alone: bool = False) -> int:
        if frames_per_chunk is not None:
            _checked_chunk(frames_per_chunk)
        return 1 if alone else frames_per_chunk or self.frames_per_chunk

    def _encode_pictures(self, pixels: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """One chunk (N, C, H, W), with noise (N, Z, h, w), to scaled latents (N, Z, h, w)."""
        side = self.tile_size
        if side is None or max(pixels.shape[2:]) <= side:
            return self._encode(Tensor(pixels), Tensor(noise)).asnumpy()
        out_side = side // self.config.downsampling
        moments = tiled(lambda tile: self._moments(Tensor(tile)).asnumpy(), pixels, side, out_side)
        return self._draw(Tensor(moments), Tensor(noise)).asnumpy()

    def _decode_pictures(self, latents: np.ndarray) -> np.ndarray:
        """One chunk of scaled latents (N, Z, h, w) to pixels (N, C, H, W)."""
        out_side = self.tile_size
        if out_side is None:
            return self._decode(Tensor(latents)).asnumpy()
        side = out_side // self.config.downsampling
        return tiled(lambda tile: self._decode(Tensor(tile)).asnumpy(), latents, side, out_side)

    def _check_pixels(self, pixels: np.ndarray) -> tuple[int, int, int, int]:
        channels, size = self.config.in_channels, self.config.downsampling
        if pixels.ndim != 5 or pixels.shape[2] != channels:
            raise ValueError(f"`pixels` must be (B, F, {channels}, H, W), got {pixels.shape}.")
        if not np.issubdtype(pixels.dtype, np.floating):
            raise ValueError(f"`pixels` must be floats in [-1, 1], got {pixels.dtype}.")
        batch, frames, _, height, width = pixels.shape
        if height % size or width % size:
            raise ValueError(
                f"Height and width of `pixels` must be divisible by {size}, got {height}, {width}."
            )
        return batch, frames, height, width


def _in_chunks(graph: Callable[..., np.ndarray], most: int, *videos: np.ndarray) -> np.ndarray:
    """`graph` over the independent frames of `videos`, each (B, F, ...): (B*F, ...)."""
    flat = [_frames(v) for v in videos]
    count = len(flat[0])
    # Chunks as even as possible: of 17 frames at most 16 at a time, 9 and 8, not 16 and 1.
    size = math.ceil(count / math.ceil(count / most))
    parts = [
        graph(*(_filled(f[start : start + size], size) for f in flat))
        for start in range(0, count, size)
    ]
    return np.concatenate(parts)[:count]


def _in_videos(
    graph: Callable[..., np.ndarray], most: int, videos: np.ndarray, mixed: bool
) -> np.ndarray:
    """`graph` over runs of at most `most` frames of one video, (B, F, ...): (B*F, ...).

    `mixed` takes all videos for one.
    """
    flat = _frames(videos)
    length = len(flat) if mixed else videos.shape[1]
    parts = [
        graph(np.ascontiguousarray(flat[start : min(start + most, first + length)]))
        for first in range(0, len(flat), length)
        for start in range(first, first + length, most)
    ]
    return np.concatenate(parts)


def _frames(videos: np.ndarray) -> np.ndarray:
    """'b f ... -> (b f) ...', float32, at least one."""
    flat = np.asarray(videos, np.float32).reshape(-1, *videos.shape[2:])
    if len(flat) == 0:
        raise ValueError(f"There must be at least one frame, got shape {videos.shape}.")
    return flat


def _filled(frames: np.ndarray, size: int) -> np.ndarray:
    """`frames` followed by zeros up to `size`, contiguous."""
    missing = size - len(frames)
    if missing == 0:
        return np.ascontiguousarray(frames)
    return np.concatenate((frames, np.zeros((missing, *frames.shape[1:]), frames.dtype)))


def _checked_chunk(frames: int) -> int:
    if frames < 1:
        raise ValueError(f"`frames_per_chunk` must be at least 1, got {frames}.")
    return frames
