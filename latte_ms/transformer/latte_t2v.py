"""Latte for text to video: diffusers' `LatteTransformer3DModel`, with joint images.

Shapes: B batch, C channels, F frames, h w latent size, I joint images, N tokens of a frame, D
hidden size, L tokens of a prompt. Tokens stay in (B, F, N, D) from the patch embedding to the last
layer.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.layers import kernels, positions
from latte_ms.layers.attention import AttentionAxis, CrossAttention, SelfAttention
from latte_ms.layers.embeddings import PatchEmbedding, TimestepEmbedding
from latte_ms.layers.entry import EntryCell
from latte_ms.layers.linear import Linear
from latte_ms.layers.mlp import Mlp
from latte_ms.layers.modulation import modulate
from latte_ms.layers.shapes import Shape, require_shape
from latte_ms.layers.token_layout import TokenLayout
from latte_ms.transformer.initialisation import initialise_t2v
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

FINAL_NORM_EPS = 1e-6  # epsilon of the last normalisation, whatever `norm_eps` is


class CaptionProjection(nn.Cell):
    """Linear, GELU (tanh), Linear: prompt embeddings (..., channels) -> (..., D)."""

    def __init__(self, channels: int, hidden_size: int, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.linear_1 = Linear(channels, hidden_size, dtype=dtype)
        self.linear_2 = Linear(hidden_size, hidden_size, dtype=dtype)

    def construct(self, embeddings: Tensor) -> Tensor:
        return self.linear_2(kernels.gelu(self.linear_1(embeddings)))


def modulation_parts(table: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
    """Shifts, scales and gates of adaLN-single: a block's table plus the condition of all blocks.

    (parts, D) and (B, parts or 1, D) -> parts x (B, 1, 1, D), in float32, one row per sample
    (PixArt-alpha, section 2.3).
    """
    rows = condition + table.astype(ms.float32)  # (B, parts, D)
    shape = (rows.shape[0], 1, 1, rows.shape[2])
    return tuple([row.reshape(shape) for row in kernels.split(rows, 1, 1)])


class Block(nn.Cell):
    """Spatial or temporal attention, cross-attention to the prompt in spatial blocks, then an MLP.

    Self-attention and MLP are modulated and gated by the timestep; cross-attention is neither, and
    sees the tokens without normalisation.
    """

    def __init__(self, config: LatteT2VConfig, over: AttentionAxis, dtype: ms.Type) -> None:
        super().__init__()
        size, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        self.eps = config.norm_eps
        self.scale_shift_table = Parameter(ops.zeros((6, size), ms.float32))
        self.attention = SelfAttention(size, heads, over, dtype, bias)
        self.cross_attention = None
        if over == "spatial":
            self.cross_attention = CrossAttention(size, heads, dtype, bias)
        self.mlp = Mlp(size, 4 * size, dtype)

    def construct(
        self,
        x: Tensor,
        condition: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, F, N, D), condition (B, 6, D); keys, values and mask as in `CrossAttention`."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation_parts(
            self.scale_shift_table, condition
        )
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a, self.eps))
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, keys, values, mask)
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m, self.eps))


class LatteT2V(EntryCell):
    """Predicts the noise (and a variance) in latent videos that a prompt describes.

    Args:
        config: what to build.
        dtype: compute dtype; norms, softmax, residuals and the output are float32.
        seed: draws the initial weights; None leaves them zero, to be loaded.
        temporal_interpolation: take other numbers of frames than `video_length` too, their
            positions spread over those that the network was trained with.
        token_layout: how the clips are divided over ranks. Of P ranks each takes and returns F / P
            frames; there must be no images. None: one rank has all.
    """

    def __init__(
        self,
        config: LatteT2VConfig,
        dtype: ms.Type = ms.float32,
        seed: int | None = 0,
        temporal_interpolation: bool = False,
        token_layout: TokenLayout | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.token_layout = TokenLayout() if token_layout is None else token_layout
        self.temporal_interpolation = temporal_interpolation
        self.shared_objects: dict[Any, Any] = {}  # compiled cells, codec, adapters
        size, patch = config.hidden_size, config.patch_size
        self.x_embedder = PatchEmbedding(patch, config.in_channels, size, dtype)
        self.t_embedder = TimestepEmbedding(size, dtype=dtype)
        self.modulation = Linear(size, 6 * size, dtype=dtype)
        self.caption_projection = CaptionProjection(config.caption_channels, size, dtype)
        self.transformer_blocks = nn.CellList(
            [Block(config, "spatial", dtype) for _ in range(config.num_layers)]
        )
        self.temporal_transformer_blocks = nn.CellList(
            [Block(config, "temporal", dtype) for _ in range(config.num_layers)]
        )
        self.scale_shift_table = Parameter(ops.zeros((2, size), ms.float32))
        self.proj_out = Linear(size, patch * patch * config.resolved_out_channels, dtype=dtype)
        if seed is not None:
            initialise_t2v(self, np.random.default_rng(seed))

    def construct(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> Tensor:
        """Noise (and variance) of `hidden_states` at `timestep`, in diffusers' layout and names.

        Args:
            hidden_states: (B, C, F, h, w) with F `video_length`, or 1 for an image; for joint
                training (B, C, video_length + num_joint_images, h, w), images after the frames.
                h and w are any that `patch_size` divides.
            timestep: (B,) of the training schedule; fractions are allowed.
            encoder_hidden_states: (B, L, caption_channels); with images also
                (B, 1 + num_joint_images, L, caption_channels), a prompt for each.
            encoder_attention_mask: (B, L), or (B, 1 + num_joint_images, L): 1 (or True) for the
                tokens to be seen, at least one per prompt, 0 for the others. None shows all.
            enable_temporal_attentions: False skips the temporal blocks; any F is allowed then.
        Returns:
            (B, out_channels, F, h, w) float32, the noise in the first channels.
        Raises:
            ValueError: a wrong shape or number of frames; the message names the argument.
        """
        channels = self.config.in_channels
        require_shape("hidden_states", hidden_states, ("B", channels, "F", "h", "w"))
        y = self.predict(
            hidden_states.transpose(0, 2, 1, 3, 4),
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            enable_temporal_attentions,
        )
        return y.transpose(0, 2, 1, 3, 4)

    def predict(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> Tensor:
        """`construct` with the frames before the channels, in and out: (B, F, C, h, w)."""
        images = self._count_images(
            "hidden_states", hidden_states, timestep, enable_temporal_attentions
        )
        shape = self._prompt_shape(encoder_hidden_states.ndim, hidden_states.shape[0], images)
        shape = (*shape, self.config.caption_channels)
        require_shape("encoder_hidden_states", encoder_hidden_states, shape)
        if encoder_attention_mask is not None:
            mask_shape = encoder_hidden_states.shape[:-1]
            require_shape("encoder_attention_mask", encoder_attention_mask, mask_shape)
        return self._forward(
            hidden_states,
            timestep,
            self._keys_and_values(encoder_hidden_states),
            encoder_attention_mask,
            images,
            enable_temporal_attentions,
        )

    def text_context(self, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the prompt in every layer; they depend on nothing else.

        Args:
            encoder_hidden_states: see `construct`.
        Returns:
            Keys and values, each (num_layers, B, L, D), in the compute dtype; with a prompt for
            each image (num_layers, B, 1 + num_joint_images, L, D).
        """
        axes, batch = encoder_hidden_states.ndim, encoder_hidden_states.shape[0]
        shape = self._prompt_shape(axes, batch, self.config.num_joint_images)
        shape = (*shape, self.config.caption_channels)
        require_shape("encoder_hidden_states", encoder_hidden_states, shape)
        keys, values = self._keys_and_values(encoder_hidden_states)
        shape = (1, *keys[0].shape)
        stacked_keys = kernels.concat(tuple([key.reshape(shape) for key in keys]), 0)
        stacked_values = kernels.concat(tuple([value.reshape(shape) for value in values]), 0)
        return stacked_keys, stacked_values

    def predict_from_context(
        self,
        x: Tensor,
        timestep: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> Tensor:
        """Noise (and variance) of `x` at `timestep`, frames before channels.

        Args:
            x: (B, F, C, h, w), otherwise as `hidden_states` of `construct`.
            timestep: (B,).
            keys, values: those of `text_context` for these videos.
            mask: `encoder_attention_mask` of `construct`.
            enable_temporal_attentions: see `construct`.
        Returns:
            (B, F, out_channels, h, w) float32, the noise in the first channels.
        Raises:
            ValueError: a wrong shape or number of frames; the message names the argument.
        """
        cfg = self.config
        require_shape("x", x, ("B", "F", cfg.in_channels, "h", "w"))
        images = self._count_images("x", x, timestep, enable_temporal_attentions)
        shape = self._prompt_shape(keys.ndim - 1, x.shape[0], images)
        require_shape("keys", keys, (cfg.num_layers, *shape, cfg.hidden_size))
        require_shape("values", values, keys.shape)
        shape = keys.shape[1:]
        if mask is not None:
            require_shape("mask", mask, shape[:-1])
        key_list = [key.reshape(shape) for key in kernels.split(keys, 1, 0)]
        value_list = [value.reshape(shape) for value in kernels.split(values, 1, 0)]
        context = (key_list, value_list)
        return self._forward(x, timestep, context, mask, images, enable_temporal_attentions)

    def _keys_and_values(self, embeddings: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Per layer (B, L, D) or (B, 1 + I, L, D)."""
        prompt = self.caption_projection(embeddings)
        keys, values = [], []
        for block in self.transformer_blocks:
            key, value = block.cross_attention.project(prompt)
            keys.append(key)
            values.append(value)
        return keys, values

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: tuple[list[Tensor], list[Tensor]],
        mask: Tensor | None,
        images: int,
        temporal: bool,
    ) -> Tensor:
        keys, values = context
        b, total, _, h, w = x.shape
        embedded = self.t_embedder(timestep)  # (B, D)
        condition = self.modulation(kernels.silu(embedded)).astype(ms.float32)
        condition = condition.reshape(b, 6, -1)

        tokens = self.x_embedder(x).astype(ms.float32)  # (B, F+I, N, D)
        tokens = tokens + self._spatial_positions(h, w)
        for i, spatial_block in enumerate(self.transformer_blocks):
            temporal_block = self.temporal_transformer_blocks[i]
            tokens = spatial_block(tokens, condition, keys[i], values[i], mask)
            if temporal and images == 0:
                tokens = self._with_temporal_position(self.token_layout.divide_tokens(tokens), i)
                tokens = self.token_layout.divide_frames(temporal_block(tokens, condition))
            elif temporal:  # images have no temporal position: temporal blocks leave them unchanged
                frames, image_tokens = kernels.split_first(tokens, total - images, 1)
                frames = temporal_block(self._with_temporal_position(frames, i), condition)
                tokens = kernels.concat((frames, image_tokens), 1)
        shift, scale = modulation_parts(self.scale_shift_table, embedded.reshape(b, 1, -1))
        tokens = self.proj_out(modulate(tokens, shift, scale, FINAL_NORM_EPS)).astype(ms.float32)
        return self._unpatchify(tokens, h, w)

    def _spatial_positions(self, height: int, width: int) -> Tensor:
        """(1, 1, N, D): rows and columns of any grid, spread over those of `sample_size`."""
        p = self.config.patch_size
        base = self.config.sample_size // p
        scale = max(self.config.sample_size // 64, 1)  # PixArt-alpha's interpolation scale
        return _spatial_table(self.config.hidden_size, height // p, width // p, base, scale)

    def _with_temporal_position(self, tokens: Tensor, index: int) -> Tensor:
        """Add temporal positions to (B, F, N, D) before the first temporal block; none if F = 1."""
        frames, cfg = tokens.shape[1], self.config
        if index == 0 and frames > 1:
            tokens = tokens + _temporal_table(cfg.hidden_size, frames, cfg.video_length)
        return tokens

    def _unpatchify(self, x: Tensor, h: int, w: int) -> Tensor:
        """'b f (h w) (p q c) -> b f c (h p) (w q)'."""
        b, f = x.shape[0], x.shape[1]
        p, c = self.config.patch_size, self.config.resolved_out_channels
        x = x.reshape(b * f, h // p, w // p, p, p, c).transpose(0, 5, 1, 3, 2, 4)
        return x.reshape(b, f, c, h, w)

    def _count_images(self, name: str, x: Tensor, timestep: Tensor, temporal: bool) -> int:
        """Number of images after the frames of x (B, F, C, h, w), the argument `name`.

        Raises ValueError for a size or a number of frames that does not fit the config, and for a
        `timestep` that does not fit x.
        """
        cfg = self.config
        require_shape("timestep", timestep, (x.shape[0],))
        p = cfg.patch_size
        if x.shape[3] % p or x.shape[4] % p:
            raise ValueError(
                f"height and width of `{name}` must be divisible by `patch_size` (={p}), "
                f"got {x.shape[3]} and {x.shape[4]}."
            )
        ranks, length, images = self.token_layout.num_ranks, cfg.video_length, 0
        if x.shape[1] == length + cfg.num_joint_images:
            images = cfg.num_joint_images
        frames = (x.shape[1] - images) * ranks
        if temporal and not self.temporal_interpolation and frames not in (1, length):
            raise ValueError(
                f"`{name}` must have 1 frame, `video_length` (={length}) frames, or these {length} "
                f"frames and `num_joint_images` (={cfg.num_joint_images}) images, got "
                f"{x.shape[1]}; a network with `temporal_interpolation` takes other numbers."
            )
        return images

    def _prompt_shape(self, axes: int, batch: int, images: int) -> Shape:
        """The shape, without the channels, that prompt embeddings with `axes` axes must have."""
        if axes == 4 and images > 0:
            return (batch, 1 + images, "L")
        return (batch, "L")


@constexpr
def _spatial_table(hidden_size: int, rows: int, columns: int, base: int, scale: int) -> Tensor:
    """Positions of a grid of `rows` x `columns` in one of `base` x `base`, (1, 1, N, D)."""
    table = positions.sincos_2d(
        hidden_size, positions.spread(rows, base, scale), positions.spread(columns, base, scale)
    )
    return Tensor(table.astype(np.float32).reshape(1, 1, rows * columns, hidden_size))


@constexpr
def _temporal_table(hidden_size: int, frames: int, base: int) -> Tensor:
    """Positions of `frames` frames among `base`, by the same rule, (1, F, 1, D)."""
    table = positions.sincos_1d(hidden_size, positions.spread(frames, base))
    return Tensor(table.astype(np.float32).reshape(1, frames, 1, hidden_size))
