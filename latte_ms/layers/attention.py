"""Multi-head attention of the tokens of a video, to each other and to the tokens of a prompt.

Shapes: B batch, F frames, N tokens of a frame, L tokens of a prompt, D hidden size, H heads,
K = D / H head size.
"""

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear

AttentionAxis = Literal["spatial", "temporal"]

# Added to the scores of masked tokens; in float32 their weights are exactly zero next to any other.
MASKED = -10000.0


def split_heads(x: Tensor, heads: int, over: AttentionAxis) -> Tensor:
    """'b f n (h k) -> (b f) h n k' for "spatial", '-> (b n) h f k' for "temporal"."""
    b, f, n, d = x.shape
    if over == "spatial":
        return kernels.transpose(x.reshape(b * f, n, heads, d // heads), (0, 2, 1, 3))
    x = kernels.transpose(x.reshape(b, f, n, heads, d // heads), (0, 2, 3, 1, 4))
    return x.reshape(b * n, heads, f, d // heads)


def join_heads(x: Tensor, shape: tuple[int, ...], over: AttentionAxis) -> Tensor:
    """The inverse of `split_heads`, to `shape` (B, F, N, D)."""
    if over == "spatial":
        return kernels.transpose(x, (0, 2, 1, 3)).reshape(shape)
    _, h, f, k = x.shape
    return kernels.transpose(x.reshape(shape[0], -1, h, f, k), (0, 3, 1, 2, 4)).reshape(shape)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """softmax(scale q k^T + bias) v for q, k, v (..., length, K), the softmax in float32.

    `bias` is float32 and broadcast to the scores (..., length of q, length of k).
    """
    scores = kernels.matmul_transposed(q * scale, k)
    if bias is not None:
        scores = scores.astype(ms.float32) + bias
    return ops.matmul(kernels.softmax(scores).astype(v.dtype), v)


def multi_head_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    over: AttentionAxis,
    mask: Tensor | None = None,
    flash: bool = False,
) -> Tensor:
    """`attend` in each head, scaled by 1 / sqrt(K): (B, F, N, D).

    Args:
        q: (B, F, N, D); k and v are (B, F, L, D) with any L for "spatial", like q for "temporal".
        over: whether a token attends within its frame or along the frames.
        mask: (B, F, L) for "spatial", 1 on the keys to attend to, 0 on the others.
        flash: by `kernels.flash_attention`, for "spatial" in 16 bit.
    """
    b, f, _, d = q.shape
    scale = (d // heads) ** -0.5
    if flash:
        row_shape = (b * f, -1, d)
        if mask is not None:
            mask = mask.reshape(b * f, -1)
        q_rows, k_rows, v_rows = q.reshape(row_shape), k.reshape(row_shape), v.reshape(row_shape)
        return kernels.flash_attention(q_rows, k_rows, v_rows, heads, scale, mask).reshape(q.shape)
    bias = None
    if mask is not None:
        bias = ((1.0 - mask.astype(ms.float32)) * MASKED).reshape(b * f, 1, 1, -1)
    q_heads, k_heads = split_heads(q, heads, over), split_heads(k, heads, over)
    y = attend(q_heads, k_heads, split_heads(v, heads, over), scale, bias)
    return join_heads(y, q.shape, over)


class Rotary(nn.Cell):
    """Turns the channels of each head in pairs by angles of their position.

    Channel k is paired with k + K / 2. `angles` (positions, K / 2) are those of the tokens of a
    frame for "spatial", of the frames for "temporal".
    """

    def __init__(self, angles: np.ndarray, over: AttentionAxis) -> None:
        super().__init__(auto_prefix=False)
        length, half = angles.shape
        shape = (1, 1, length, 1, half) if over == "spatial" else (1, length, 1, 1, half)
        self.cosines = Tensor(np.cos(angles).astype(np.float32).reshape(shape))
        self.sines = Tensor(np.sin(angles).astype(np.float32).reshape(shape))
        self.half = half

    def construct(self, x: Tensor) -> Tensor:
        """(B, F, N, H * K) of the same shape and dtype; computed in float32."""
        b, f, n, d = x.shape
        first, second = kernels.split(
            x.astype(ms.float32).reshape(b, f, n, -1, 2 * self.half), self.half, -1
        )
        turned = kernels.concat(
            (
                first * self.cosines - second * self.sines,
                second * self.cosines + first * self.sines,
            ),
            -1,
        )
        return turned.reshape(b, f, n, d).astype(x.dtype)


class MultiHeadAttention(nn.Cell):
    """Base class of self- and cross-attention: their query, key, value and output projections.

    Args:
        flash: use flash attention where the backend has it and `dtype` has 16 bits.
        dtype: compute dtype.
        bias: whether queries, keys and values have a bias.
    Raises:
        ValueError: `hidden_size` is not divisible by `num_heads`.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, flash: bool, dtype: ms.Type, bias: bool
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(
                f"`hidden_size` (={hidden_size}) must be divisible by `num_heads` (={num_heads})."
            )
        self.num_heads = num_heads
        self.flash = flash and dtype != ms.float32 and kernels.has_flash_attention()
        self.query = Linear(hidden_size, hidden_size, bias, dtype)
        # A bias on all keys moves all scores of a query alike, which softmax ignores: its gradient
        # is zero, and what rounding leaves of it would have Adam move the bias at random.
        self.key = Linear(hidden_size, hidden_size, bias, dtype, train_bias=False)
        self.value = Linear(hidden_size, hidden_size, bias, dtype)
        self.output = Linear(hidden_size, hidden_size, dtype=dtype)


class SelfAttention(MultiHeadAttention):
    """Attention of x (B, F, N, D) within each frame ("spatial") or along the frames ("temporal").

    They differ only in how heads are split, so the tokens stay in (B, F, N, D). On an Ascend,
    spatial attention in 16 bit is one flash-attention kernel; for temporal attention, with few
    frames and very many sequences, plain products suit it better and have no limit on the batch.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        over: AttentionAxis,
        dtype: ms.Type = ms.float32,
        bias: bool = True,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__(hidden_size, num_heads, over == "spatial", dtype, bias)
        self.over, self.rotary = over, rotary

    def construct(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)  # (B, F, N, D)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        y = multi_head_attention(q, k, v, self.num_heads, self.over, flash=self.flash)
        return self.output(y)


class ParallelAttention(MultiHeadAttention):
    """Half of the heads attend within each frame, the others along the frames.

    The output projection adds what both have found. Tokens behind the first `num_frames` frames
    are joint images: nothing is found for them along the frames.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_frames: int,
        dtype: ms.Type = ms.float32,
        spatial_rotary: Rotary | None = None,
        temporal_rotary: Rotary | None = None,
    ) -> None:
        super().__init__(hidden_size, num_heads, True, dtype, True)
        self.num_frames, self.half = num_frames, hidden_size // 2
        self.spatial_rotary, self.temporal_rotary = spatial_rotary, temporal_rotary

    def construct(self, x: Tensor) -> Tensor:
        """(B, F + I, N, D)"""
        (q_s, q_t), (k_s, k_t), (v_s, v_t) = (
            kernels.split(self.query(x), self.half, -1),
            kernels.split(self.key(x), self.half, -1),
            kernels.split(self.value(x), self.half, -1),
        )
        if self.spatial_rotary is not None:
            q_s, k_s = self.spatial_rotary(q_s), self.spatial_rotary(k_s)
        heads = self.num_heads // 2
        spatial = multi_head_attention(q_s, k_s, v_s, heads, "spatial", flash=self.flash)
        images = x.shape[1] - self.num_frames
        rest = kernels.zeros_like(spatial)
        if images > 0:
            q_t, _ = kernels.split_first(q_t, self.num_frames, 1)
            k_t, _ = kernels.split_first(k_t, self.num_frames, 1)
            v_t, _ = kernels.split_first(v_t, self.num_frames, 1)
            _, rest = kernels.split_first(rest, self.num_frames, 1)
        if self.temporal_rotary is not None:
            q_t, k_t = self.temporal_rotary(q_t), self.temporal_rotary(k_t)
        temporal = multi_head_attention(q_t, k_t, v_t, heads, "temporal")
        if images > 0:
            temporal = kernels.concat((temporal, rest), 1)
        return self.output(kernels.concat((spatial, temporal), -1))


class CrossAttention(MultiHeadAttention):
    """Attention of x (B, F, N, D) to keys and values that are the same in every frame.

    Keys and values are made once per prompt, by `project`. The frames of a video are one long row
    of queries, so no key is repeated for a frame.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, dtype: ms.Type = ms.float32, bias: bool = True
    ) -> None:
        super().__init__(hidden_size, num_heads, True, dtype, bias)

    def project(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a prompt (..., L, D), each (..., L, D)."""
        return self.key(prompt), self.value(prompt)

    def construct(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, F, N, D) to keys and values (B, L, D); mask (B, L), 1 on tokens to attend to.

        Keys (B, 1 + I, L, D), with a mask (B, 1 + I, L), hold one prompt for the first F - I frames
        and one for each of the I images after them.
        """
        q = self.query(x)
        if keys.ndim == 3:
            return self.output(self._attend(q, keys, values, mask, 1))
        images = keys.shape[1] - 1
        video_q, image_q = kernels.split_first(q, x.shape[1] - images, 1)
        video_k, image_k = kernels.split_first(keys, 1, 1)
        video_v, image_v = kernels.split_first(values, 1, 1)
        video_mask, image_mask = None, None
        if mask is not None:
            video_mask, image_mask = kernels.split_first(mask.astype(ms.float32), 1, 1)
        video = self._attend(video_q, video_k, video_v, video_mask, 1)
        image = self._attend(image_q, image_k, image_v, image_mask, images)
        return self.output(kernels.concat((video, image), 1))

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, prompts: int
    ) -> Tensor:
        """Attention of q (B, F, N, D) to keys and values (B, prompts, L, D): (B, F, N, D).

        There is one prompt for all frames, or one for each.
        """
        row_shape = (q.shape[0], prompts, -1, q.shape[3])
        if mask is not None:
            mask = mask.reshape(q.shape[0], prompts, -1)
        k, v = keys.reshape(row_shape), values.reshape(row_shape)
        q_rows, heads = q.reshape(row_shape), self.num_heads
        y = multi_head_attention(q_rows, k, v, heads, "spatial", mask, self.flash)
        return y.reshape(q.shape)
