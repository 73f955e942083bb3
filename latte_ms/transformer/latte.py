"""Latte in the four variants of the paper, and with its other design choices.

Shapes: B batch, F frames, C latent channels, h w latent size, N tokens of a frame, D hidden size, I
joint images. Tokens stay in (B, F, N, D) from the patch embedding to the last layer. With tubelets
of s frames there are F / s frames of tokens; where the condition is among the tokens, N counts it.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from latte_ms.layers import kernels, positions
from latte_ms.layers.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    TimestepEmbedding,
    TubeletEmbedding,
)
from latte_ms.layers.entry import EntryCell
from latte_ms.layers.linear import Linear
from latte_ms.layers.shapes import require_shape
from latte_ms.layers.token_layout import TokenLayout
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.initialisation import initialise_latte
from latte_ms.transformer.latte_blocks import Block, FinalLayer, TokenBlock, TokenFinalLayer


class Latte(EntryCell):
    """Predicts the noise in latent videos, or the clean latents (and a variance).

    Labels are not checked here, because a check would stall the device; check them first with
    `LatteConfig.check_labels`: kernels read out of range silently.

    Args:
        config: what to build.
        dtype: compute dtype; norms, softmax, residuals and the output are float32.
        seed: draws the initial weights; None leaves them zero, to be loaded.
        token_layout: how the clips are divided over ranks. Of P ranks each takes and returns F / P
            of the frames of a clip, in order, and no joint images; P must divide F and N. Of the
            variants 1 and 2 with a token for each patch; see `LatteConfig.is_divisible`.
    """

    def __init__(
        self,
        config: LatteConfig,
        dtype: ms.Type = ms.float32,
        seed: int | None = 0,
        token_layout: TokenLayout | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.token_layout = TokenLayout() if token_layout is None else token_layout
        self.local_frames = config.num_frames // self.token_layout.num_ranks  # of this rank
        self.local_token_frames = config.token_frames // self.token_layout.num_ranks
        self.shared_objects: dict[Any, Any] = {}  # compiled cells, codec, adapters
        size = config.hidden_size
        patch, channels = config.patch_size, config.in_channels
        self.tubelet = config.temporal_patch_size
        if self.tubelet > 1:
            self.x_embedder = TubeletEmbedding(self.tubelet, patch, channels, size, dtype)
            outputs = config.out_channels
            self.temporal_upsampling = Linear(outputs, self.tubelet * outputs, dtype=dtype)
        else:
            self.x_embedder = PatchEmbedding(patch, channels, size, dtype)
        self.t_embedder = TimestepEmbedding(size, dtype=dtype)
        if config.conditioning == "class":
            self.y_embedder = LabelEmbedding(
                config.num_classes, size, config.class_dropout_prob > 0
            )
        if config.conditioning == "text":
            self.text_projection = Linear(config.text_tokens * config.text_width, size, dtype=dtype)
        self.plan = config.plan
        self._add_positions()
        self.is_adaptive = config.injection == "adaln"
        block, final = (Block, FinalLayer) if self.is_adaptive else (TokenBlock, TokenFinalLayer)
        self.blocks = nn.CellList([block(config, kind, dtype) for kind in self.plan])
        self.final_layer = final(config, dtype)
        if seed is not None:
            initialise_latte(self, np.random.default_rng(seed))

    def _add_positions(self) -> None:
        """The tables of absolute positions, and where they enter."""
        cfg, place = self.config, np.arange(self.config.input_size // self.config.patch_size)
        self.has_spatial_positions = cfg.positions != "rotary"
        if self.has_spatial_positions:
            self.pos_embed = _fixed(positions.sincos_2d(cfg.hidden_size, place, place))
        # Temporal positions enter before the first block that attends along the frames.
        self.first_temporal = cfg.depth
        if cfg.positions == "absolute":
            frames = np.arange(cfg.token_frames)
            self.temp_embed = _fixed(positions.sincos_1d(cfg.hidden_size, frames))
            self.first_temporal = next(i for i, k in enumerate(self.plan) if k != "spatial")

    def construct(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        text_embedding: Tensor | None = None,
        y_image: Tensor | None = None,
    ) -> Tensor:
        """The prediction (and variance) for `x` at timestep `t`.

        Args:
            x: (B, F, C, h, w), or (B, F + num_joint_images, C, h, w) with images after the frames.
            t: (B,) integer timesteps of the training schedule.
            y: (B,) labels, for conditioning "class".
            text_embedding: (B, text_tokens, text_width), for conditioning "text".
            y_image: (B, num_joint_images) labels of the images, for "class" where `x` has images.
        Returns:
            (B, F, out_channels, h, w) float32 with as many frames and images as `x`; the
            prediction is in the first channels.
        Raises:
            ValueError: a wrong shape or a missing condition; the message names the argument.
        """
        return self.with_tokens(x, t, 0, y, text_embedding, y_image)[0]

    def with_tokens(
        self,
        x: Tensor,
        t: Tensor,
        num_blocks: int,
        y: Tensor | None = None,
        text_embedding: Tensor | None = None,
        y_image: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What `construct` returns, and the tokens (B, F+I, N, D) after `num_blocks` blocks."""
        tokens, t_embedding, condition, frame_condition = self._embed(
            x, t, y, text_embedding, y_image
        )
        final_condition = frame_condition
        if self.config.conditioning == "text":  # the reference's last layer sees no text
            final_condition = t_embedding.reshape(condition.shape)
        tapped = self._run(tokens, condition, frame_condition, 0, num_blocks)
        tokens = self._run(tapped, condition, frame_condition, num_blocks, self.config.depth)
        return self._unpatchify(self.final_layer(tokens, final_condition)), tapped

    def tokens_after(
        self,
        x: Tensor,
        t: Tensor,
        num_blocks: int,
        y: Tensor | None = None,
        text_embedding: Tensor | None = None,
        y_image: Tensor | None = None,
    ) -> Tensor:
        """The tokens (B, F+I, N, D) after `num_blocks` blocks; the others are not run."""
        tokens, _, condition, frame_condition = self._embed(x, t, y, text_embedding, y_image)
        return self._run(tokens, condition, frame_condition, 0, num_blocks)

    def _embed(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None,
        text_embedding: Tensor | None,
        y_image: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens (B, F+I, N, D), the embedded timestep (B, D), and two conditions.

        These are of the video (B, 1, 1, D), and of each frame and image (B, 1 or F+I, 1, D).
        """
        num_images = self._check(x, t, y, text_embedding, y_image)
        t_embedding = self.t_embedder(t)  # (B, D)
        condition = self._condition(t_embedding, y, text_embedding)  # (B, 1, 1, D)
        frame_condition = condition
        if num_images > 0 and self.config.conditioning == "class":
            # (B, F+I, 1, D)
            frame_condition = self._with_image_labels(t_embedding, condition, y_image)
        tokens = self.x_embedder(x).astype(ms.float32)  # (B, F+I, N, D)
        if self.has_spatial_positions:
            tokens = tokens + self.pos_embed
        if not self.is_adaptive:
            tokens = self._with_condition(tokens, t_embedding, frame_condition)
        return tokens, t_embedding, condition, frame_condition

    def _with_condition(self, tokens: Tensor, t_embedding: Tensor, condition: Tensor) -> Tensor:
        """Tokens and, after those of each frame, that of the timestep and that of the condition.

        The condition (B, 1 or F+I, 1, D) contains the embedded timestep (B, D).
        """
        b, frames, _, size = tokens.shape
        t_token = t_embedding.reshape(b, 1, 1, size)
        parts: tuple[Tensor, ...] = (tokens, t_token.broadcast_to((b, frames, 1, size)))
        if self.config.condition_tokens > 1:
            parts = (*parts, (condition - t_token).broadcast_to((b, frames, 1, size)))
        return kernels.concat(parts, 2)

    def _run(
        self, tokens: Tensor, condition: Tensor, frame_condition: Tensor, first: int, end: int
    ) -> Tensor:
        """Tokens (B, F+I, N, D) after the blocks number `first` to `end` - 1."""
        num_images = tokens.shape[1] - self.local_token_frames
        for i in range(first, end):
            block = self.blocks[i]
            if self.plan[i] == "spatial":
                tokens = block(tokens, frame_condition)
            elif self.plan[i] != "temporal":
                tokens = block(self._with_temporal_position(tokens, i), frame_condition)
            elif num_images == 0:
                tokens = self._with_temporal_position(self.token_layout.divide_tokens(tokens), i)
                tokens = self.token_layout.divide_frames(block(tokens, condition))
            else:  # images have no temporal position: temporal blocks leave them unchanged
                frames, image_tokens = kernels.split_first(tokens, self.config.num_frames, 1)
                frames = block(self._with_temporal_position(frames, i), condition)
                tokens = kernels.concat((frames, image_tokens), 1)
        return tokens

    def _check(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None,
        text: Tensor | None,
        y_image: Tensor | None,
    ) -> int:
        """Number of images after the frames; raises for inputs that do not fit the config."""
        cfg = self.config
        require_shape("x", x, ("B", "F", cfg.in_channels, cfg.input_size, cfg.input_size))
        num_images = x.shape[1] - self.local_frames
        if num_images not in (0, cfg.num_joint_images):
            raise ValueError(
                f"`x` must have {self.local_frames} frames, `num_frames` (={cfg.num_frames}) over "
                f"the ranks of a clip, followed by none or `num_joint_images` "
                f"(={cfg.num_joint_images}) images, got {x.shape[1]}."
            )
        batch = x.shape[0]
        require_shape("t", t, (batch,))
        if cfg.conditioning == "class":
            require_shape("y", y, (batch,))
            if num_images > 0:
                require_shape("y_image", y_image, (batch, num_images))
        if cfg.conditioning == "text":
            require_shape("text_embedding", text, (batch, cfg.text_tokens, cfg.text_width))
        return num_images

    def _condition(self, t_embedding: Tensor, y: Tensor | None, text: Tensor | None) -> Tensor:
        condition = t_embedding
        if self.config.conditioning == "class":
            condition = condition + self.y_embedder(y)
        if text is not None and self.config.conditioning == "text":
            flat = kernels.silu(text.astype(ms.float32).reshape(text.shape[0], -1))
            condition = condition + self.text_projection(flat).astype(ms.float32)
        return condition.reshape(condition.shape[0], 1, 1, -1)

    def _with_image_labels(self, t_embedding: Tensor, condition: Tensor, y_image: Tensor) -> Tensor:
        """The video's condition for its frames, then one per image: (B, F + I, 1, D)."""
        b, num_images = y_image.shape
        frames = self.config.num_frames
        per_image = t_embedding.reshape(b, 1, -1) + self.y_embedder(y_image)  # (B, I, D)
        repeated = condition.broadcast_to((b, frames, 1, condition.shape[-1]))
        return kernels.concat((repeated, per_image.reshape(b, num_images, 1, -1)), 1)

    def _with_temporal_position(self, tokens: Tensor, index: int) -> Tensor:
        """Add the temporal position once, to the frames, before the first block that needs it."""
        if index != self.first_temporal:
            return tokens
        frames = self.config.token_frames
        table = self.temp_embed.reshape(1, frames, 1, -1)
        if tokens.shape[1] == frames:
            return tokens + table
        video, images = kernels.split_first(tokens, frames, 1)
        return kernels.concat((video + table, images), 1)

    def _unpatchify(self, x: Tensor) -> Tensor:
        """'b f (h w) (p q c) -> b f c (h p) (w q)'; of tubelets each frame becomes several."""
        b, f = x.shape[0], x.shape[1]
        p, c = self.config.patch_size, self.config.out_channels
        side = self.config.input_size // p
        if self.tubelet > 1:  # a transposed convolution over time, whose stride is its kernel
            x = self.temporal_upsampling(x.reshape(b * f, -1, c)).astype(ms.float32)
            x = x.reshape(b * f, -1, self.tubelet, c).transpose(0, 2, 1, 3)
            f = f * self.tubelet
        x = x.reshape(b * f, side, side, p, p, c).transpose(0, 5, 1, 3, 2, 4)
        return x.reshape(b, f, c, side * p, side * p)


def _fixed(table: np.ndarray) -> Parameter:
    """A position table (1, P, D), saved with the weights and never trained."""
    return Parameter(Tensor(table[None].astype(np.float32)), requires_grad=False)
