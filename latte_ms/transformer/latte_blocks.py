"""The blocks and the last layer of Latte, for each of the paper's design choices.

Shapes: B batch, F frames, I joint images, N tokens of a frame, D hidden size.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms.layers import kernels, positions
from latte_ms.layers.attention import AttentionAxis, ParallelAttention, Rotary, SelfAttention
from latte_ms.layers.linear import Linear
from latte_ms.layers.mlp import Mlp
from latte_ms.layers.modulation import Modulation, modulate
from latte_ms.layers.normalisation import LayerNorm
from latte_ms.transformer.configuration import BlockKind, LatteConfig


def attention_of(config: LatteConfig, kind: BlockKind, dtype: ms.Type) -> nn.Cell:
    """The attention of a block; of a sequential one that within the frames."""
    size, heads = config.hidden_size, config.num_heads
    spatial, temporal = rotary_of(config, "spatial"), rotary_of(config, "temporal")
    if kind == "parallel":
        return ParallelAttention(size, heads, config.token_frames, dtype, spatial, temporal)
    if kind == "temporal":
        return SelfAttention(size, heads, "temporal", dtype, rotary=temporal)
    return SelfAttention(size, heads, "spatial", dtype, rotary=spatial)


def rotary_of(config: LatteConfig, over: AttentionAxis) -> Rotary | None:
    """The rotary positions of one axis, None where they are absolute.

    Tokens of the condition, which follow those of a frame, are not turned.
    """
    head_size = config.hidden_size // config.num_heads
    if over == "temporal":
        if config.positions == "absolute":
            return None
        return Rotary(positions.rotary_angles(head_size, np.arange(config.token_frames)), over)
    if config.positions != "rotary":
        return None
    side = config.input_size // config.patch_size
    angles = positions.rotary_angles_2d(head_size, side, side)
    return Rotary(np.pad(angles, ((0, config.condition_tokens), (0, 0))), over)


class Block(nn.Cell):
    """Attention, then an MLP, both modulated and gated by the condition (S-AdaLN).

    A sequential block has two attentions, within the frames and then along them, that share their
    modulation. Joint images have no frames to attend along.
    """

    def __init__(self, config: LatteConfig, kind: BlockKind, dtype: ms.Type) -> None:
        super().__init__()
        size = config.hidden_size
        self.modulation = Modulation(size, 6, dtype)
        self.attention = attention_of(config, kind, dtype)
        self.mlp = Mlp(size, int(size * config.mlp_ratio), dtype)
        self.sequential, self.num_frames = kind == "sequential", config.token_frames
        if self.sequential:
            self.temporal_attention = attention_of(config, "temporal", dtype)

    def construct(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, F + I, N, D) and condition (B, 1 or F + I, 1, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a))
        if self.sequential:
            y = modulate(x, shift_a, scale_a)
            x = x + gate_a * along_frames(self.temporal_attention, y, self.num_frames)
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m))


class TokenBlock(nn.Cell):
    """Attention, then an MLP, behind learned normalisations; the condition is among the tokens."""

    def __init__(self, config: LatteConfig, kind: BlockKind, dtype: ms.Type) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention_norm = LayerNorm(size, 1e-6)
        self.attention = attention_of(config, kind, dtype)
        self.mlp_norm = LayerNorm(size, 1e-6)
        self.mlp = Mlp(size, int(size * config.mlp_ratio), dtype)
        self.sequential, self.num_frames = kind == "sequential", config.token_frames
        if self.sequential:
            self.temporal_attention_norm = LayerNorm(size, 1e-6)
            self.temporal_attention = attention_of(config, "temporal", dtype)

    def construct(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, F + I, N, D); `condition` is not looked at."""
        x = x + self.attention(self.attention_norm(x))
        if self.sequential:
            y = self.temporal_attention_norm(x)
            x = x + along_frames(self.temporal_attention, y, self.num_frames)
        return x + self.mlp(self.mlp_norm(x))


def along_frames(attention: nn.Cell, x: Tensor, num_frames: int) -> Tensor:
    """Temporal attention of the first `num_frames` frames of x, zero for the images after them."""
    if x.shape[1] == num_frames:
        return attention(x)
    frames, images = kernels.split_first(x, num_frames, 1)
    found = attention(frames)
    return kernels.concat((found, kernels.zeros_like(images).astype(found.dtype)), 1)


class FinalLayer(nn.Cell):
    """Modulated normalisation and one Linear to p * p * channels values per token."""

    def __init__(self, config: LatteConfig, dtype: ms.Type) -> None:
        super().__init__()
        values = config.patch_size**2 * config.out_channels
        self.modulation = Modulation(config.hidden_size, 2, dtype)
        self.linear = Linear(config.hidden_size, values, dtype=dtype)

    def construct(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)
        return self.linear(modulate(x, shift, scale)).astype(ms.float32)


class TokenFinalLayer(nn.Cell):
    """Learned normalisation and one Linear; the tokens of the condition are left behind."""

    def __init__(self, config: LatteConfig, dtype: ms.Type) -> None:
        super().__init__()
        values = config.patch_size**2 * config.out_channels
        self.norm = LayerNorm(config.hidden_size, 1e-6)
        self.linear = Linear(config.hidden_size, values, dtype=dtype)
        self.num_tokens = (config.input_size // config.patch_size) ** 2

    def construct(self, x: Tensor, condition: Tensor) -> Tensor:
        x, _ = kernels.split_first(x, self.num_tokens, 2)
        return self.linear(self.norm(x)).astype(ms.float32)
