"""Videos of pixels to scaled latents and back, in chunks of frames.

Shapes: B videos, F frames, C channels, H W pixels, Z latent channels, h w latent size, N frames
of a chunk.
"""

import math
from collections.abc import Callable

import numpy as np
from mindspore import Tensor

from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell
from latte_ms.vae.autoencoder import AutoencoderBase, AutoencoderKL, sample
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from latte_ms.vae.tiling import tiled

Autoencoder = AutoencoderKL | AutoencoderKLTemporalDecoder


class Moments(EntryCell):
    """Pixels (N, C, H, W) to moments (N, 2 Z, h, w).

    With tiling, the moments of the tiles are blended before latents are sampled.
    """

    def __init__(self, autoencoder: AutoencoderBase) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder

    def construct(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.moments(pixels)


class Sample(EntryCell):
    """Moments (N, 2 Z, h, w) and noise (N, Z, h, w) to scaled latents (N, Z, h, w)."""

    def __init__(self, autoencoder: AutoencoderBase) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.scale = autoencoder.config.scaling_factor

    def construct(self, moments: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.autoencoder.mean_and_log_variance(moments)
        return self.scale * sample(mean, log_variance, noise)


class MeanAndStd(EntryCell):
    """Moments (N, 2 Z, h, w) to mean and standard deviation of scaled latents, (N, 2 Z, h, w)."""

    def __init__(self, autoencoder: AutoencoderBase) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.scale = autoencoder.config.scaling_factor

    def construct(self, moments: Tensor) -> Tensor:
        mean, log_variance = self.autoencoder.mean_and_log_variance(moments)
        return self.scale * kernels.concat((mean, kernels.exp(0.5 * log_variance)), 1)


class Encode(EntryCell):
    """Pixels (N, C, H, W) and noise (N, Z, h, w) to scaled latents (N, Z, h, w)."""

    def __init__(self, autoencoder: AutoencoderBase) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.sample = Sample(autoencoder)

    def construct(self, pixels: Tensor, noise: Tensor) -> Tensor:
        return self.sample(self.autoencoder.moments(pixels), noise)


class Decode(EntryCell):
    """Scaled latents (N, Z, h, w) to pixels (N, C, H, W)."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.inverse_scale = 1.0 / autoencoder.config.scaling_factor

    def construct(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(self.inverse_scale * latents)


class DecodeVideo(EntryCell):
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
    chunk. Where frames are independent, all chunks of a call have one shape, the last one padded
    with zeros. A temporal decoder sees the frames of a chunk together, so its chunks are those of
    the reference, the last one shorter.

    Slicing and tiling are settings of the autoencoder (`enable_slicing`, `enable_tiling`), read at
    the start of each call. Nothing in a codec changes from call to call, so that several users of
    an autoencoder can share one.

    Args:
        frames_per_chunk: largest number of frames in one graph call, which bounds the memory;
            `encode` and `decode` take another one for a single call.
    Raises:
        ValueError: `frames_per_chunk` is below 1.
    """

    def __init__(self, autoencoder: Autoencoder, frames_per_chunk: int = 4) -> None:
        self.autoencoder, self.config = autoencoder, autoencoder.config
        self.frames_per_chunk = _checked_chunk(frames_per_chunk)
        self.temporal = isinstance(autoencoder, AutoencoderKLTemporalDecoder)
        self._encode, self._moments = Encode(autoencoder), Moments(autoencoder)
        self._sample, self._mean_and_std = Sample(autoencoder), MeanAndStd(autoencoder)
        self._decode = DecodeVideo(autoencoder) if self.temporal else Decode(autoencoder)

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
            frames_per_chunk: for this call, instead of the codec's.
        Raises:
            ValueError: a shape does not fit, or pixels are integers.
        """
        batch, frames, height, width = self._check_pixels(pixels)
        factor, z = self.config.downsampling, self.config.latent_channels
        shape = (batch, frames, z, height // factor, width // factor)
        if noise is None:
            noise = np.zeros(shape, np.float32)
        elif isinstance(noise, np.random.Generator):
            noise = noise.standard_normal(shape, np.float32)
        elif noise.shape != shape:
            raise ValueError(f"`noise` must have the latents' shape {shape}, got {noise.shape}.")
        tile_size = self.autoencoder.tile_size

        def encode_frames(pixels: np.ndarray, noise: np.ndarray) -> np.ndarray:
            return self._encode_frames(pixels, noise, tile_size)

        limit = self._chunk_limit(frames_per_chunk, self.autoencoder.slicing)
        return _in_chunks(encode_frames, limit, pixels, noise).reshape(shape)

    def mean_and_std(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, F, C, H, W) in [-1, 1] to the normal distribution that `encode` samples.

        Returns mean and standard deviation of the scaled latents, each (B, F, Z, h, w) float32.
        Raises ValueError as `encode` does.
        """
        batch, frames, height, width = self._check_pixels(pixels)
        factor, z = self.config.downsampling, self.config.latent_channels
        tile_size = self.autoencoder.tile_size

        def frame_mean_and_std(pixels: np.ndarray) -> np.ndarray:
            moments = self._frame_moments(pixels, tile_size)
            return self._mean_and_std(Tensor(moments)).asnumpy()

        limit = self._chunk_limit(None, self.autoencoder.slicing)
        shape = (batch, frames, 2 * z, height // factor, width // factor)
        both = _in_chunks(frame_mean_and_std, limit, pixels).reshape(shape)
        return both[:, :, :z], both[:, :, z:]

    def decode(
        self,
        latents: np.ndarray,
        frames_per_chunk: int | None = None,
        mix_videos: bool = False,
    ) -> np.ndarray:
        """Scaled latents (B, F, Z, h, w) to pixels (B, F, C, H, W), float32.

        Pixels are nominally in [-1, 1], not clamped.

        Args:
            frames_per_chunk: for this call, instead of the codec's.
            mix_videos: split all videos of the batch into chunks as if they were one, as diffusers'
                pipeline does. A temporal decoder then mixes the end of a video with the beginning
                of the next; without, each video is split by itself.
        Raises:
            ValueError: the shape does not fit.
        """
        z, factor = self.config.latent_channels, self.config.downsampling
        if latents.ndim != 5 or latents.shape[2] != z:
            raise ValueError(f"`latents` must be (B, F, {z}, h, w), got {latents.shape}.")
        batch, frames, _, h, w = latents.shape
        tile_size = self.autoencoder.tile_size

        def decode_frames(latents: np.ndarray) -> np.ndarray:
            return self._decode_frames(latents, tile_size)

        if self.temporal:
            limit = self._chunk_limit(frames_per_chunk, slicing=False)
            pixels = _in_videos(decode_frames, limit, latents, mix_videos)
        else:
            limit = self._chunk_limit(frames_per_chunk, self.autoencoder.slicing)
            pixels = _in_chunks(decode_frames, limit, latents)
        return pixels.reshape(batch, frames, self.config.out_channels, h * factor, w * factor)

    def _chunk_limit(self, frames_per_chunk: int | None, slicing: bool) -> int:
        """Frames per graph call."""
        if frames_per_chunk is not None:
            _checked_chunk(frames_per_chunk)
        return 1 if slicing else frames_per_chunk or self.frames_per_chunk

    def _encode_frames(
        self, pixels: np.ndarray, noise: np.ndarray, tile_size: int | None
    ) -> np.ndarray:
        """One chunk (N, C, H, W), with noise (N, Z, h, w), to scaled latents (N, Z, h, w)."""
        if tile_size is None or max(pixels.shape[2:]) <= tile_size:
            return self._encode(Tensor(pixels), Tensor(noise)).asnumpy()
        moments = self._frame_moments(pixels, tile_size)
        return self._sample(Tensor(moments), Tensor(noise)).asnumpy()

    def _frame_moments(self, pixels: np.ndarray, tile_size: int | None) -> np.ndarray:
        """One chunk (N, C, H, W) to moments (N, 2 Z, h, w)."""
        if tile_size is None or max(pixels.shape[2:]) <= tile_size:
            return self._moments(Tensor(pixels)).asnumpy()
        latent_size = tile_size // self.config.downsampling
        return tiled(
            lambda tile: self._moments(Tensor(tile)).asnumpy(), pixels, tile_size, latent_size
        )

    def _decode_frames(self, latents: np.ndarray, tile_size: int | None) -> np.ndarray:
        """One chunk of scaled latents (N, Z, h, w) to pixels (N, C, H, W)."""
        if tile_size is None:
            return self._decode(Tensor(latents)).asnumpy()
        latent_size = tile_size // self.config.downsampling
        return tiled(
            lambda tile: self._decode(Tensor(tile)).asnumpy(), latents, latent_size, tile_size
        )

    def _check_pixels(self, pixels: np.ndarray) -> tuple[int, int, int, int]:
        """B, F, H and W of `pixels`."""
        channels, factor = self.config.in_channels, self.config.downsampling
        if pixels.ndim != 5 or pixels.shape[2] != channels:
            raise ValueError(f"`pixels` must be (B, F, {channels}, H, W), got {pixels.shape}.")
        if not np.issubdtype(pixels.dtype, np.floating):
            raise ValueError(f"`pixels` must be floats in [-1, 1], got {pixels.dtype}.")
        batch, frames, _, height, width = pixels.shape
        if height % factor or width % factor:
            raise ValueError(
                f"Height and width of `pixels` must be divisible by {factor}, "
                f"got {height}, {width}."
            )
        return batch, frames, height, width


def _in_chunks(function: Callable[..., np.ndarray], limit: int, *videos: np.ndarray) -> np.ndarray:
    """`function` over the independent frames of `videos`, each (B, F, ...): (B*F, ...)."""
    arrays = [_frames(array) for array in videos]
    count = len(arrays[0])
    # Chunks as even as possible: 17 frames, at most 16 at a time, are 9 and 8, not 16 and 1.
    size = math.ceil(count / math.ceil(count / limit))
    chunks = [
        function(*(_padded(array[start : start + size], size) for array in arrays))
        for start in range(0, count, size)
    ]
    return np.concatenate(chunks)[:count]


def _in_videos(
    function: Callable[..., np.ndarray], limit: int, videos: np.ndarray, mixed: bool
) -> np.ndarray:
    """`function` over runs of at most `limit` frames of one video, (B, F, ...): (B*F, ...).

    `mixed` treats all videos as one.
    """
    frames = _frames(videos)
    length = len(frames) if mixed else videos.shape[1]
    chunks = [
        function(np.ascontiguousarray(frames[start : min(start + limit, first + length)]))
        for first in range(0, len(frames), length)
        for start in range(first, first + length, limit)
    ]
    return np.concatenate(chunks)


def _frames(videos: np.ndarray) -> np.ndarray:
    """'b f ... -> (b f) ...', float32, at least one."""
    frames = np.asarray(videos, np.float32).reshape(-1, *videos.shape[2:])
    if len(frames) == 0:
        raise ValueError(f"There must be at least one frame, got shape {videos.shape}.")
    return frames


def _padded(frames: np.ndarray, size: int) -> np.ndarray:
    """`frames` followed by zeros up to `size`, contiguous."""
    missing = size - len(frames)
    if missing == 0:
        return np.ascontiguousarray(frames)
    return np.concatenate((frames, np.zeros((missing, *frames.shape[1:]), frames.dtype)))


def _checked_chunk(frames: int) -> int:
    if frames < 1:
        raise ValueError(f"`frames_per_chunk` must be at least 1, got {frames}.")
    return frames
