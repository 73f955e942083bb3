"""The KL autoencoder with a temporal decoder (arXiv 2311.15127), with diffusers' names.

Shapes: N = B * F frames of B videos, one video after another; C channels, H W pixels, Z latent
channels, h w latent size. The decoder normalises and convolves along the frames of a video.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.convolution import Conv2d, TemporalConv
from latte_ms.layers.normalisation import GroupNorm
from latte_ms.vae.autoencoder import (
    AutoencoderBase,
    PixelAttention,
    Resampler,
    ResnetBlock,
    initialise,
    sample,
)
from latte_ms.vae.configuration import TemporalDecoderConfig

GROUPS = TemporalDecoderConfig.norm_num_groups
TEMPORAL_EPS = 1e-5  # epsilon of normalisations over whole videos; within single frames it is 1e-6


class TemporalResnetBlock(nn.Cell):
    """conv(silu(norm(conv(silu(norm(x)))))), convolved along the frames of each video."""

    def __init__(self, channels: int, dtype: ms.Type) -> None:
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, channels, TEMPORAL_EPS)
        self.conv1 = TemporalConv(channels, channels, dtype)
        self.norm2 = GroupNorm(GROUPS, channels, TEMPORAL_EPS)
        self.conv2 = TemporalConv(channels, channels, dtype)

    def construct(self, x: Tensor, frames: int) -> Tensor:
        h = self.conv1(kernels.silu(self.norm1(x, frames)), frames)  # (N, C, H, W)
        return self.conv2(kernels.silu(self.norm2(h, frames)), frames)


class TemporalMixer(nn.Cell):
    """x + s * change with s = sigmoid(mix_factor).

    The reference mixes x and x + change with weights 1 - s and s, which is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = Parameter(ops.zeros((1,), ms.float32))

    def construct(self, x: Tensor, change: Tensor) -> Tensor:
        return x + ops.sigmoid(self.mix_factor.astype(ms.float32)).astype(x.dtype) * change


class SpatioTemporalBlock(nn.Cell):
    """A spatial residual block, then a temporal one, added by a learned amount."""

    def __init__(self, channels: int, out_channels: int, dtype: ms.Type) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock(channels, out_channels, GROUPS, dtype)
        self.temporal_res_block = TemporalResnetBlock(out_channels, dtype)
        self.time_mixer = TemporalMixer()

    def construct(self, x: Tensor, frames: int) -> Tensor:
        x = self.spatial_res_block(x)  # (N, out, H, W)
        return self.time_mixer(x, self.temporal_res_block(x, frames))


class TemporalMidBlock(nn.Cell):
    """Two blocks at the lowest resolution, attention within frames between them.

    The reference has as many blocks as the encoder has layers. It applies the first two of them,
    and with a single one no attention; the others are here to be loaded and saved.
    """

    def __init__(self, channels: int, layers: int, dtype: ms.Type) -> None:
        super().__init__()
        self.resnets = nn.CellList(
            [SpatioTemporalBlock(channels, channels, dtype) for _ in range(layers)]
        )
        self.attentions = nn.CellList([PixelAttention(channels, GROUPS, dtype)])

    def construct(self, x: Tensor, frames: int) -> Tensor:
        x = self.resnets[0](x, frames)
        if len(self.resnets) > 1:
            x = self.resnets[1](self.attentions[0](x), frames)
        return x


class TemporalUpBlock(nn.Cell):
    """Spatio-temporal blocks, then twice the resolution in all but the last block."""

    def __init__(
        self, channels: int, out_channels: int, layers: int, last: bool, dtype: ms.Type
    ) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (layers - 1)
        self.resnets = nn.CellList([SpatioTemporalBlock(c, out_channels, dtype) for c in inputs])
        self.upsamplers = None
        if not last:
            conv = Conv2d(out_channels, out_channels, 3, padding=1, upsample=True, dtype=dtype)
            self.upsamplers = nn.CellList([Resampler(conv)])

    def construct(self, x: Tensor, frames: int) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x, frames)
        if self.upsamplers is not None:
            x = self.upsamplers[0](x)
        return x


class TemporalDecoder(nn.Cell):
    """Latents (N, Z, h, w) to pixels (N, C, H, W)."""

    def __init__(self, config: TemporalDecoderConfig, dtype: ms.Type) -> None:
        super().__init__()
        channels, layers = config.block_out_channels[::-1], config.layers_per_block
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1, dtype=dtype)
        self.mid_block = TemporalMidBlock(channels[0], layers, dtype)
        inputs = (channels[0], *channels[:-1])
        self.up_blocks = nn.CellList(
            [
                TemporalUpBlock(a, b, layers + 1, last=i == len(channels) - 1, dtype=dtype)
                for i, (a, b) in enumerate(zip(inputs, channels, strict=True))
            ]
        )
        self.conv_norm_out = GroupNorm(GROUPS, channels[-1])
        self.conv_out = Conv2d(channels[-1], config.out_channels, 3, padding=1, dtype=dtype)
        self.time_conv_out = TemporalConv(config.out_channels, config.out_channels, dtype)

    def construct(self, z: Tensor, frames: int) -> Tensor:
        x = self.mid_block(self.conv_in(z), frames)
        for block in self.up_blocks:
            x = block(x, frames)
        x = self.conv_out(kernels.silu(self.conv_norm_out(x)))  # (N, C, H, W)
        return self.time_conv_out(x, frames)


class AutoencoderKLTemporalDecoder(AutoencoderBase):
    """Encodes images one by one, and decodes the latents of a video together.

    Latents are unscaled here; `vae.codec` applies the scaling factor.

    Args:
        config: what to build.
        dtype: compute dtype of convolutions and matrix products; normalisations, softmax, and what
            `encode` and `decode` return are float32.
        seed: draws the initial weights; None leaves them zero, to be loaded.
    """

    def __init__(
        self, config: TemporalDecoderConfig, dtype: ms.Type = ms.float32, seed: int | None = 0
    ) -> None:
        super().__init__(config, dtype)
        self.decoder = TemporalDecoder(config, dtype)
        if seed is not None:
            initialise(self, np.random.default_rng(seed))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Latents (B * num_frames, Z, h, w) to pixels (B * num_frames, C, H, W), float32.

        Raises ValueError when the latents are not a whole number of videos.
        """
        if latents.shape[0] % num_frames:
            raise ValueError(
                f"The number of latent frames must be divisible by `num_frames` (={num_frames}), "
                f"got {latents.shape}."
            )
        return self.decoder(latents, num_frames).astype(ms.float32)

    def construct(
        self, pixels: Tensor, noise: Tensor, num_frames: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded mean + std * noise (N, C, H, W), and mean and log-variance (N, Z, h, w)."""
        mean, log_variance = self.encode(pixels)
        latents = sample(mean, log_variance, noise)
        return self.decode(latents, num_frames), mean, log_variance
