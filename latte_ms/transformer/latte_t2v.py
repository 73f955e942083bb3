"""Latte for text to video: diffusers' `LatteTransformer3DModel`, with joint images.

Shapes: B batch, C channels, F frames, H W latent size, N tokens of a frame, D width, L tokens of
the text. Tokens stay in (B, F, N, D) from the patch embedding to the last layer.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.layers import kernels, positions
from latte_ms.layers.attention import Attention, Over
from latte_ms.layers.cross_attention import CrossAttention
from latte_ms.layers.embeddings import PatchEmbedding, TimestepEmbedding
from latte_ms.layers.linear import Linear
from latte_ms.layers.mlp import Mlp
from latte_ms.layers.modulation import modulate
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

LAST_EPS = 1e-6  # of the last normalisation, whatever `norm_eps` is


class CaptionProjection(nn.Cell):
    """Linear, GELU (tanh), Linear: text (..., channels) -> (..., width)."""

    def __init__(self, channels: int, width: int, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.linear_1 = Linear(channels, width, dtype=dtype)
        self.linear_2 = Linear(width, width, dtype=dtype)

    def construct(self, text: Tensor) -> Tensor:
        return self.linear_2(kernels.gelu(self.linear_1(text)))


def scale_shift(table: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
    """adaLN-single: a block's table added to the condition of all blocks (PixArt-alpha, 2.3).

    (parts, D) and (B, parts or 1, D) -> parts x (B, 1, 1, D), in float32, one row per sample.
    """
    rows = condition + table.astype(ms.float32)  # (B, parts, D)
    shape = (rows.shape[0], 1, 1, rows.shape[2])
    return tuple([row.reshape(shape) for row in kernels.split(rows, 1, 1)])


class Block(nn.Cell):
    """Attention over space or time, over space also to the text, then an MLP.

    Attention and MLP are modulated and gated by the timestep; the attention to the text is neither,
    and sees the tokens without normalisation.
    """

    def __init__(
        self, config: LatteT2VConfig, over: Over, dtype: ms.Type, head_multiple: int
    ) -> None:
        super().__init__()
        width, heads, bias = config.width, config.num_attention_heads, config.attention_bias
        self.eps = config.norm_eps
        self.scale_shift_table = Parameter(ops.zeros((6, width), ms.float32))
        self.attention = Attention(width, heads, over, dtype, head_multiple, bias)
        self.cross_attention = None
        if over == "space":
            self.cross_attention = CrossAttention(width, heads, bias, dtype, head_multiple)
        self.mlp = Mlp(width, 4 * width, dtype)

    def construct(
        self,
        x: Tensor,
        condition: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, F, N, D), condition (B, 6, D); keys, values and mask as in `CrossAttention`."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = scale_shift(
            self.scale_shift_table, condition
        )
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a, self.eps))
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, keys, values, mask)
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m, self.eps))


class LatteT2V(nn.Cell):
    """Predicts the noise (and a variance) in latent videos that a text describes.

    Args:
        config: what to build.
        dtype: type of the matrix products; norms, softmax, residuals and the output are float32.
        seed: of the initial weights; None leaves them zero, to be loaded.
        temporal_interpolation: take other numbers of frames than `video_length` too, their
            positions spread over those that the network was trained with.
        head_multiple: see `layers.attention.Attention`.
    """

    def __init__(
        self,
        config: LatteT2VConfig,
        dtype: ms.Type = ms.float32,
        seed: int | None = 0,
        temporal_interpolation: bool = False,
        head_multiple: int = 1,
    ) -> None:
        super().__init__()
        self.config = config
        self.temporal_interpolation = temporal_interpolation
        self.graphs = {}
        width, patch = config.width, config.patch_size
        self.x_embedder = PatchEmbedding(patch, config.in_channels, width, dtype)
        self.t_embedder = TimestepEmbedding(width, dtype=dtype)
        self.modulation = Linear(width, 6 * width, dtype=dtype)
        self.caption_projection = CaptionProjection(config.caption_channels, width, dtype)
        self.transformer_blocks = nn.CellList(
            [Block(config, "space", dtype, head_multiple) for _ in range(config.num_layers)]
        )
        self.temporal_transformer_blocks = nn.CellList(
            [Block(config, "time", dtype, head_multiple) for _ in range(config.num_layers)]
        )
        self.scale_shift_table = Parameter(ops.zeros((2, width), ms.float32))
        self.proj_out = Linear(width, patch * patch * config.channels_out, dtype=dtype)
        if seed is not None:
            _initialise(self, np.random.default_rng(seed))

    def construct(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> Tensor:
        """Noise (and variance) of `hidden_states` at `timestep`.

        Args:
            hidden_states: (B, C, F, H, W) with F `video_length`, or 1 for a picture; for joint
                training (B, C, video_length + num_joint_images, H, W), images behind the frames.
                H and W are any that `patch_size` divides.
            timestep: (B,) of the training schedule; fractions are allowed.
            encoder_hidden_states: (B, L, caption_channels); with images also
                (B, 1 + num_joint_images, L, caption_channels), a text for each.
            encoder_attention_mask: (B, L), or (B, 1 + num_joint_images, L): 1 (or True) for the
                tokens to be seen, 0 for the others. None shows all.
            enable_temporal_attentions: False leaves the temporal blocks out; any F is taken then.
        Returns:
            (B, out_channels, F, H, W) float32, the noise in the first channels.
        Raises:
            ValueError: a shape or a number of frames; the message names the argument.
        """
        images = self._check(hidden_states, timestep, enable_temporal_attentions)
        self._check_text(encoder_hidden_states, hidden_states.shape[0], images)
        keys, values = self._keys_and_values(encoder_hidden_states)
        return self._denoise(
            hidden_states,
            timestep,
            (keys, values),
            encoder_attention_mask,
            images,
            enable_temporal_attentions,
        )

    def text_context(self, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text in every layer; they depend on nothing else.

        Args:
            encoder_hidden_states: see `construct`.
        Returns:
            Keys and values, each (num_layers, B, L, D), in the type of the matrix products; with a
            text for each image (num_layers, B, 1 + num_joint_images, L, D).
        """
        images = 0
        if encoder_hidden_states.ndim == 4:
            images = self.config.num_joint_images
        self._check_text(encoder_hidden_states, encoder_hidden_states.shape[0], images)
        keys, values = self._keys_and_values(encoder_hidden_states)
        shape = (1, *keys[0].shape)
        stacked_keys = kernels.concat(tuple([key.reshape(shape) for key in keys]), 0)
        stacked_values = kernels.concat(tuple([value.reshape(shape) for value in values]), 0)
        return stacked_keys, stacked_values

    def denoise(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        keys: Tensor,
        values: Tensor,
        encoder_attention_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> Tensor:
        """`construct` with the results of `text_context` in place of the text."""
        hidden_states = hidden_states.transpose(0, 2, 1, 3, 4)
        images = self._check(hidden_states, timestep, enable_temporal_attentions)
        self._check_context(keys, values, hidden_states.shape[0], images)
        shape = keys.shape[1:]
        key_list = [key.reshape(shape) for key in kernels.split(keys, 1, 0)]
        value_list = [value.reshape(shape) for value in kernels.split(values, 1, 0)]
        return self._denoise(
            hidden_states,
            timestep,
            (key_list, value_list),
            encoder_attention_mask,
            images,
            enable_temporal_attentions,
        ).transpose(0, 2, 1, 3, 4)

    def _keys_and_values(self, text: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Per layer (B, L, D) or (B, 1 + I, L, D)."""
        text = self.caption_projection(text)
        keys, values = [], []
        for block in self.transformer_blocks:
            key, value = block.cross_attention.project(text)
            keys.append(key)
            values.append(value)
        return keys, values

    def _denoise(
        self,
        x: Tensor,
        timestep: Tensor,
        context: tuple[list[Tensor], list[Tensor]],
        mask: Tensor | None,
        images: int,
        temporal: bool,
    ) -> Tensor:
        keys, values = context
        b, _, total, h, w = x.shape
        if mask is not None:
            _require("encoder_attention_mask", mask, keys[0].shape[:-1])
        embedded = self.t_embedder(timestep)  # (B, D)
        condition = self.modulation(kernels.silu(embedded)).astype(ms.float32)
        condition = condition.reshape(b, 6, -1)

        tokens = self.x_embedder(x.transpose(0, 2, 1, 3, 4)).astype(ms.float32)  # (B, F+I, N, D)
        tokens = tokens + self._space_positions(h, w)
        for i, over_space in enumerate(self.transformer_blocks):
            over_time = self.temporal_transformer_blocks[i]
            tokens = over_space(tokens, condition, keys[i], values[i], mask)
            if temporal and images == 0:
                tokens = over_time(self._with_time(tokens, i), condition)
            elif temporal:  # images have no time: they go around the temporal blocks
                frames, stills = kernels.split_first(tokens, total - images, 1)
                frames = over_time(self._with_time(frames, i), condition)
                tokens = kernels.concat((frames, stills), 1)
        shift, scale = scale_shift(self.scale_shift_table, embedded.reshape(b, 1, -1))
        tokens = self.proj_out(modulate(tokens, shift, scale, LAST_EPS)).astype(ms.float32)
        return self._unpatchify(tokens, h, w)

    def _space_positions(self, height: int, width: int) -> Tensor:
        """(1, 1, N, D): rows and columns of any grid, spread over those of `sample_size`."""
        p = self.config.patch_size
        base = self.config.sample_size // p
        scale = max(self.config.sample_size // 64, 1)
        return _space_table(self.config.width, height // p, width // p, base, scale)

    def _with_time(self, tokens: Tensor, index: int) -> Tensor:
        """Add the temporal position of (B, F, N, D) once, before the first temporal block."""
        frames = tokens.shape[1]
        if index == 0 and frames > 1:
            tokens = tokens + _time_table(self.config.width, frames, self.config.video_length)
        return tokens

    def _unpatchify(self, x: Tensor, h: int, w: int) -> Tensor:
        """'b f (h w) (p q c) -> b c f (h p) (w q)'."""
        b, f = x.shape[0], x.shape[1]
        p, c = self.config.patch_size, self.config.channels_out
        x = x.reshape(b * f, h // p, w // p, p, p, c).transpose(0, 5, 1, 3, 2, 4)
        return x.reshape(b, f, c, h, w).transpose(0, 2, 1, 3, 4)

    def _check(self, x: Tensor, timestep: Tensor, temporal: bool) -> int:
        """Number of images behind the frames; raises for a video that does not fit the config."""
        cfg = self.config
        p = cfg.patch_size
        if x.ndim != 5 or x.shape[1] != cfg.in_channels:
            raise ValueError(
                f"`hidden_states` must be (B, C, F, H, W) with `in_channels` (={cfg.in_channels}) "
                f"for C, got {x.shape}."
            )
        if x.shape[3] % p or x.shape[4] % p:
            raise ValueError(
                f"height and width of `hidden_states` must be divisible by `patch_size` (={p}), "
                f"got {x.shape[3]} and {x.shape[4]}."
            )
        _require("timestep", timestep, (x.shape[0],))
        length, images = cfg.video_length, 0
        if x.shape[2] == length + cfg.num_joint_images:
            images = cfg.num_joint_images
        frames = x.shape[2] - images
        if temporal and not self.temporal_interpolation and frames not in (1, length):
            raise ValueError(
                f"`hidden_states` must have 1 or `video_length` (={length}) frames, or these and "
                f"`num_joint_images` (={cfg.num_joint_images}) images, got {frames}; a network "
                "with `temporal_interpolation` takes other numbers."
            )
        return images

    def _check_text(self, text: Tensor, batch: int, images: int) -> None:
        channels = self.config.caption_channels
        fits = text.ndim == 3 or (text.ndim == 4 and images > 0 and text.shape[1] == 1 + images)
        if not fits or text.shape[0] != batch or text.shape[-1] != channels:
            raise ValueError(
                f"`encoder_hidden_states` must be ({batch}, L, {channels}) for these "
                f"`hidden_states`, or ({batch}, 1 + I, L, {channels}) with I images behind the "
                f"frames (here {images}), got {text.shape}."
            )

    def _check_context(self, keys: Tensor, values: Tensor, batch: int, images: int) -> None:
        layers, width = self.config.num_layers, self.config.width
        fits = keys.ndim == 4 or (keys.ndim == 5 and images > 0 and keys.shape[2] == 1 + images)
        ends = (keys.shape[0], keys.shape[1], keys.shape[-1])
        if not fits or ends != (layers, batch, width) or values.shape != keys.shape:
            raise ValueError(
                f"`keys` and `values` must be those of `text_context` for these `hidden_states`, "
                f"({layers}, {batch}, L, {width}), got {keys.shape} and {values.shape}."
            )


def _require(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `value` has `shape`."""
    if value.shape != shape:
        raise ValueError(f"`{name}` must have the shape {shape}, got {value.shape}.")


@constexpr
def _space_table(width: int, rows: int, columns: int, base: int, scale: int) -> Tensor:
    """Positions of a grid of `rows` x `columns` in one of `base` x `base`, (1, 1, N, D)."""
    table = positions.sincos_2d(
        width, positions.spread(rows, base, scale), positions.spread(columns, base, scale)
    )
    return Tensor(table.astype(np.float32).reshape(1, 1, rows * columns, width))


@constexpr
def _time_table(width: int, frames: int, base: int) -> Tensor:
    """Positions of `frames` frames among `base`, by the same rule, (1, F, 1, D)."""
    table = positions.sincos_1d(width, positions.spread(frames, base))
    return Tensor(table.astype(np.float32).reshape(1, frames, 1, width))


def _initialise(network: LatteT2V, rng: np.random.Generator) -> None:
    """As the reference's: uniform within 1 / sqrt(fan in); tables normal with variance 1 / D."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, Linear):
            bound = np.float32(cell.weight.shape[1] ** -0.5)
            for parameter in (cell.weight, cell.bias):
                if parameter is not None:
                    value = (rng.random(parameter.shape, np.float32) * 2 - 1) * bound
                    parameter.set_data(Tensor(value))
    for name, parameter in network.parameters_and_names():
        if name.endswith("scale_shift_table"):
            scale = np.float32(parameter.shape[1] ** -0.5)
            value = rng.standard_normal(parameter.shape, np.float32) * scale
            parameter.set_data(Tensor(value))
