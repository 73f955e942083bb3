"""Videos of pixels to scaled latents and back, in chunks of frames.

Shapes: B videos, F frames, C channels, H W pixels, Z latent channels, h w latents.
"""

import math
from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn

from latte_ms.vae.autoencoder import AutoencoderKL, sample


class Encode(nn.Cell):
    """Pixels (N, C, H, W) and noise (N, Z, h, w) to scaled latents (N, Z, h, w)."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.scale = autoencoder.config.scaling_factor

    def construct(self, pixels: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.autoencoder.encode(pixels)
        return self.scale * sample(mean, log_variance, noise)


class Decode(nn.Cell):
    """Scaled latents (N, Z, h, w) to pixels (N, C, H, W)."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder
        self.inverse_scale = 1.0 / autoencoder.config.scaling_factor

    def construct(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(self.inverse_scale * latents)


class Codec:
    """The boundary between pixels and the latents that the diffusion works on.

    The scaling factor is applied here and nowhere else. A graph is compiled for each shape of a
    chunk; all chunks of a call have one shape, the last filled up with zeros.

    Args:
        frames_per_chunk: most frames in one graph call; bounds the memory.
    """

    def __init__(self, autoencoder: AutoencoderKL, frames_per_chunk: int = 4) -> None:
        if frames_per_chunk < 1:
            raise ValueError(f"`frames_per_chunk` must be at least 1, got {frames_per_chunk}.")
        self.config = autoencoder.config
        self.frames_per_chunk = frames_per_chunk
        self._encode = Encode(autoencoder)
        self._decode = Decode(autoencoder)

    def encode(
        self, pixels: np.ndarray, noise: np.ndarray | np.random.Generator | None = None
    ) -> np.ndarray:
        """Pixels (B, F, C, H, W) in [-1, 1] to scaled latents (B, F, Z, h, w), float32.

        Args:
            noise: standard normal (B, F, Z, h, w), or a generator to draw it from, for a sample of
                the distribution; None for its mean.
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
        return self._in_chunks(self._encode, pixels, noise).reshape(shape)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Scaled latents (B, F, Z, h, w) to pixels (B, F, C, H, W), about [-1, 1], float32."""
        z = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[2] != z:
            raise ValueError(f"`latents` must be (B, F, {z}, h, w), got {latents.shape}.")
        batch, frames, _, h, w = latents.shape
        size = self.config.downsampling
        pixels = self._in_chunks(self._decode, latents)
        return pixels.reshape(batch, frames, self.config.out_channels, h * size, w * size)

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

    def _in_chunks(self, graph: Callable[..., Tensor], *videos: np.ndarray) -> np.ndarray:
        """`graph` over the frames of `videos`, each (B, F, ...): (B*F, ...)."""
        flat = [np.asarray(v, np.float32).reshape(-1, *v.shape[2:]) for v in videos]
        count = len(flat[0])
        if count == 0:
            raise ValueError(f"There must be at least one frame, got shape {videos[0].shape}.")
        # Chunks as even as possible: of 17 frames at most 16 at a time, 9 and 8, not 16 and 1.
        size = math.ceil(count / math.ceil(count / self.frames_per_chunk))
        parts = [
            graph(*(Tensor(_filled(f[start : start + size], size)) for f in flat)).asnumpy()
            for start in range(0, count, size)
        ]
        return np.concatenate(parts)[:count]


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels (B, F, 3, H, W) in [-1, 1] to (B, F, H, W, 3) in 0..255, rounded, out of range cut."""
    values = (np.asarray(pixels, np.float32) * 0.5 + 0.5) * 255.0 + 0.5
    return np.clip(values, 0.0, 255.0).astype(np.uint8).transpose(0, 1, 3, 4, 2)


def _filled(frames: np.ndarray, size: int) -> np.ndarray:
    """`frames` followed by zeros up to `size`, contiguous."""
    missing = size - len(frames)
    if missing == 0:
        return np.ascontiguousarray(frames)
    return np.concatenate((frames, np.zeros((missing, *frames.shape[1:]), frames.dtype)))
