"""The KL autoencoder of Stable Diffusion (arXiv 2112.10752), with diffusers' parameter names.

Shapes: N frames, C channels, H W pixels, h w = H W / 2^(blocks - 1) latents, Z latent channels.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms.layers import kernels
from latte_ms.layers.attention import attend
from latte_ms.layers.convolution import Conv2d, TemporalConv
from latte_ms.layers.entry import EntryCell
from latte_ms.layers.linear import Linear
from latte_ms.layers.normalisation import GroupNorm
from latte_ms.vae.configuration import AutoencoderConfig, TemporalDecoderConfig
from latte_ms.vae.tiling import check_tile_size

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class ResnetBlock(nn.Cell):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x convolved 1 x 1 where the channels change."""

    def __init__(self, channels: int, out_channels: int, groups: int, dtype: ms.Type) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels)
        self.conv1 = Conv2d(channels, out_channels, 3, padding=1, dtype=dtype)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, dtype=dtype)
        self.conv_shortcut = None
        if channels != out_channels:
            self.conv_shortcut = Conv2d(channels, out_channels, 1, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        h = self.conv1(kernels.silu(self.norm1(x)))  # (N, out, H, W)
        h = self.conv2(kernels.silu(self.norm2(h)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + h


class PixelAttention(nn.Cell):
    """x + attention over all pixels of a frame, with a single head."""

    def __init__(self, channels: int, groups: int, dtype: ms.Type) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.group_norm = GroupNorm(groups, channels)
        self.query = Linear(channels, channels, dtype=dtype)
        self.key = Linear(channels, channels, dtype=dtype)
        self.value = Linear(channels, channels, dtype=dtype)
        self.output = Linear(channels, channels, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        tokens = self.group_norm(x).reshape(n, c, height * width).transpose(0, 2, 1)  # (N, HW, C)
        q, k, v = self.query(tokens), self.key(tokens), self.value(tokens)
        attended = self.output(attend(q, k, v, self.scale))  # (N, HW, C)
        return x + attended.transpose(0, 2, 1).reshape(n, c, height, width)


class MidBlock(nn.Cell):
    """Two residual blocks at the lowest resolution, attention between them."""

    def __init__(self, channels: int, groups: int, attention: bool, dtype: ms.Type) -> None:
        super().__init__()
        self.resnets = nn.CellList(
            [ResnetBlock(channels, channels, groups, dtype) for _ in range(2)]
        )
        self.attentions = None
        if attention:
            self.attentions = nn.CellList([PixelAttention(channels, groups, dtype)])

    def construct(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if self.attentions is not None:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Resampler(nn.Cell):
    """The convolution that halves or doubles the resolution."""

    def __init__(self, conv: Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DownBlock(nn.Cell):
    """Residual blocks, then half the resolution in all but the last block of the encoder."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        config: AutoencoderConfig | TemporalDecoderConfig,
        last: bool,
        dtype: ms.Type,
    ) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (config.layers_per_block - 1)
        groups = config.norm_num_groups
        self.resnets = nn.CellList([ResnetBlock(c, out_channels, groups, dtype) for c in inputs])
        self.downsamplers = None
        if not last:
            # Zeros below and to the right only, as the weights were trained.
            conv = Conv2d(out_channels, out_channels, 3, 2, padding=(0, 1, 0, 1), dtype=dtype)
            self.downsamplers = nn.CellList([Resampler(conv)])

    def construct(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
        return x


class UpBlock(nn.Cell):
    """Residual blocks, then twice the resolution in all but the last block of the decoder."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        config: AutoencoderConfig,
        last: bool,
        dtype: ms.Type,
    ) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * config.layers_per_block
        groups = config.norm_num_groups
        self.resnets = nn.CellList([ResnetBlock(c, out_channels, groups, dtype) for c in inputs])
        self.upsamplers = None
        if not last:
            conv = Conv2d(out_channels, out_channels, 3, padding=1, upsample=True, dtype=dtype)
            self.upsamplers = nn.CellList([Resampler(conv)])

    def construct(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        if self.upsamplers is not None:
            x = self.upsamplers[0](x)
        return x


class Encoder(nn.Cell):
    """Pixels (N, C, H, W) to the features of mean and log-variance (N, 2 Z, h, w)."""

    def __init__(self, config: AutoencoderConfig | TemporalDecoderConfig, dtype: ms.Type) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1, dtype=dtype)
        inputs = (channels[0], *channels[:-1])
        self.down_blocks = nn.CellList(
            [
                DownBlock(a, b, config, last=i == len(channels) - 1, dtype=dtype)
                for i, (a, b) in enumerate(zip(inputs, channels, strict=True))
            ]
        )
        self.mid_block = MidBlock(channels[-1], groups, config.mid_block_add_attention, dtype)
        self.conv_norm_out = GroupNorm(groups, channels[-1])
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)  # (N, channels[-1], h, w)
        return self.conv_out(kernels.silu(self.conv_norm_out(x)))


class Decoder(nn.Cell):
    """Latents (N, Z, h, w) to pixels (N, C, H, W)."""

    def __init__(self, config: AutoencoderConfig, dtype: ms.Type) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1, dtype=dtype)
        self.mid_block = MidBlock(channels[0], groups, config.mid_block_add_attention, dtype)
        inputs = (channels[0], *channels[:-1])
        self.up_blocks = nn.CellList(
            [
                UpBlock(a, b, config, last=i == len(channels) - 1, dtype=dtype)
                for i, (a, b) in enumerate(zip(inputs, channels, strict=True))
            ]
        )
        self.conv_norm_out = GroupNorm(groups, channels[-1])
        self.conv_out = Conv2d(channels[-1], config.out_channels, 3, padding=1, dtype=dtype)

    def construct(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(kernels.silu(self.conv_norm_out(x)))


class AutoencoderBase(EntryCell):
    """What both autoencoders share: images to a normal distribution over unscaled latents.

    Tiling and slicing are settings as in diffusers; `vae.codec.Codec` carries them out.

    Args:
        dtype: compute dtype of convolutions and matrix products.
    """

    def __init__(self, config: AutoencoderConfig | TemporalDecoderConfig, dtype: ms.Type) -> None:
        super().__init__()
        self.config = config
        self.tile_size: int | None = None  # side of a tile in pixels; None: whole images
        self.slicing = False  # one image at a time
        self.shared_objects: dict[str, Any] = {}  # compiled cells, codec, adapters
        z = config.latent_channels
        self.encoder = Encoder(config, dtype)
        self.quant_conv = Conv2d(2 * z, 2 * z, 1, dtype=dtype) if config.use_quant_conv else None

    def enable_tiling(self, use_tiling: bool = True, *, tile_size: int | None = None) -> None:
        """Process images larger than `tile_size` pixels in overlapping square tiles of that side.

        The default is the `sample_size` of the configuration. Raises ValueError for a side that is
        not a multiple of 4 latents.
        """
        if not isinstance(use_tiling, bool):
            raise ValueError(f"`use_tiling` must be True or False, got {use_tiling!r}.")
        side = self.config.sample_size if tile_size is None else tile_size
        if use_tiling:
            check_tile_size(side, self.config.downsampling)
        self.tile_size = side if use_tiling else None

    def disable_tiling(self) -> None:
        """Process whole images."""
        self.tile_size = None

    def enable_slicing(self) -> None:
        """Process one image at a time; a temporal decoder still sees its frames together."""
        self.slicing = True

    def disable_slicing(self) -> None:
        """Process as many images at a time as the codec's `frames_per_chunk` allows."""
        self.slicing = False

    def moments(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in [-1, 1] to mean and log-variance, concatenated.

        Returns (N, 2 Z, h, w) float32; the log-variance is not clamped yet.
        """
        factor = self.config.downsampling
        if pixels.shape[2] % factor or pixels.shape[3] % factor:
            raise ValueError(f"Height and width must be divisible by {factor}, got {pixels.shape}.")
        moments = self.encoder(pixels)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.astype(ms.float32)

    def mean_and_log_variance(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Moments (N, 2 Z, h, w) to mean and clamped log-variance (N, Z, h, w)."""
        mean, log_variance = kernels.split(moments, self.config.latent_channels, 1)
        low, high = LOG_VARIANCE_RANGE
        return mean, kernels.clamp(log_variance, low, high)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, C, H, W) in [-1, 1] to mean and log-variance (N, Z, h, w) of the latents."""
        return self.mean_and_log_variance(self.moments(pixels))


class AutoencoderKL(AutoencoderBase):
    """Encodes images to a normal distribution over latents, and decodes latents.

    Latents are unscaled here; `vae.codec` applies the scaling factor.

    Args:
        config: what to build.
        dtype: compute dtype of convolutions and matrix products; normalisations, softmax, and what
            `encode` and `decode` return are float32.
        seed: draws the initial weights; None leaves them zero, to be loaded.
    """

    def __init__(
        self, config: AutoencoderConfig, dtype: ms.Type = ms.float32, seed: int | None = 0
    ) -> None:
        super().__init__(config, dtype)
        z = config.latent_channels
        self.decoder = Decoder(config, dtype)
        self.post_quant_conv = Conv2d(z, z, 1, dtype=dtype) if config.use_post_quant_conv else None
        if seed is not None:
            initialise(self, np.random.default_rng(seed))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, Z, h, w) to pixels (N, C, H, W), nominally in [-1, 1], not clamped."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(ms.float32)

    def construct(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded mean + std * noise (N, C, H, W), and mean and log-variance (N, Z, h, w)."""
        mean, log_variance = self.encode(pixels)
        return self.decode(sample(mean, log_variance, noise)), mean, log_variance


def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """mean + std * noise."""
    return mean + kernels.exp(0.5 * log_variance) * noise


def set_log_variance(network: AutoencoderKL, value: float) -> None:
    """Set the bias of the log-variance, so that it starts near `value`."""
    layer = network.encoder.conv_out if network.quant_conv is None else network.quant_conv
    bias = layer.bias.asnumpy().copy()
    bias[network.config.latent_channels :] = value
    layer.bias.set_data(Tensor(bias))


def initialise(network: nn.Cell, rng: np.random.Generator) -> None:
    """Weights and biases from U(-b, b), b = 1 / sqrt(fan in), as in torch; norms stay 1 and 0."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, Conv2d | TemporalConv | Linear):
            shape = cell.weight.shape
            bound = np.float32(np.prod(shape[1:]) ** -0.5)
            for parameter in cell.trainable_params():
                values = rng.random(parameter.shape, np.float32)
                parameter.set_data(Tensor((values * 2 - 1) * bound))
