"""Multi-head attention over the tokens of a frame or over the frames of a token.

Shapes: B batch, F frames, N tokens of a frame, D width, H heads, K = D / H head width.
"""

from typing import Literal

import mindspore as ms
from mindspore import Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear

Over = Literal["space", "time"]


def heads_over_space(x: Tensor, heads: int) -> Tensor:
    """'b f n (h k) -> (b f) h n k'."""
    b, f, n, d = x.shape
    return kernels.transpose(x.reshape(b * f, n, heads, d // heads), (0, 2, 1, 3))


def heads_over_time(x: Tensor, heads: int) -> Tensor:
    """'b f n (h k) -> (b n) h f k'."""
    b, f, n, d = x.shape
    x = kernels.transpose(x.reshape(b, f, n, heads, d // heads), (0, 2, 3, 1, 4))
    return x.reshape(b * n, heads, f, d // heads)


def join_over_space(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """'(b f) h n k -> b f n (h k)'."""
    return kernels.transpose(x, (0, 2, 1, 3)).reshape(shape)


def join_over_time(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """'(b n) h f k -> b f n (h k)'."""
    _, h, f, k = x.shape
    return kernels.transpose(x.reshape(shape[0], -1, h, f, k), (0, 3, 1, 2, 4)).reshape(shape)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v for q, k, v (..., length, K), the softmax in float32."""
    scores = kernels.matmul_transposed(q * scale, k)
    return ops.matmul(kernels.softmax(scores), v)


class Attention(nn.Cell):
    """Self-attention of x (B, F, N, D) within each frame ("space") or along each token ("time").

    Everything but the product of queries and keys is the same for both, so the tokens stay in
    (B, F, N, D) and the rearrangement is part of cutting the heads. On an Ascend, attention over
    space in 16 bit is one flash-attention kernel; over time, with few frames and very many
    sequences, plain products suit it better and know no batch limit.

    Args:
        head_multiple: head widths are padded with zeros to this multiple for flash attention
            (16 suits kernels that want it, 72 -> 80; 1 pads nothing).
        bias: of queries, keys and values.
    Raises:
        ValueError: `width` does not divide by `num_heads`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        over: Over,
        dtype: ms.Type = ms.float32,
        head_multiple: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"`hidden_size` (={width}) must be divisible by `num_heads` (={num_heads})."
            )
        self.num_heads = num_heads
        self.over = over
        self.scale = (width // num_heads) ** -0.5
        self.head_multiple = head_multiple
        self.flash = over == "space" and dtype != ms.float32 and kernels.has_flash_attention()
        self.query = Linear(width, width, bias, dtype)
        # A bias on all keys moves all scores of a query alike, which softmax ignores: its gradient
        # is zero, and what rounding leaves of it would have Adam move the bias at random.
        self.key = Linear(width, width, bias, dtype, train_bias=False)
        self.value = Linear(width, width, bias, dtype)
        self.output = Linear(width, width, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)  # (B, F, N, D)
        heads = self.num_heads
        if self.flash:
            mixed = self._flash_over_space(q, k, v)
        elif self.over == "space":
            q, k, v = (
                heads_over_space(q, heads),
                heads_over_space(k, heads),
                heads_over_space(v, heads),
            )
            mixed = join_over_space(attend(q, k, v, self.scale), x.shape)
        else:
            q, k, v = (
                heads_over_time(q, heads),
                heads_over_time(k, heads),
                heads_over_time(v, heads),
            )
            mixed = join_over_time(attend(q, k, v, self.scale), x.shape)
        return self.output(mixed)

    def _flash_over_space(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, f, n, d = q.shape
        rows = (b * f, n, d)
        q, k, v = q.reshape(rows), k.reshape(rows), v.reshape(rows)
        mixed = kernels.flash_attention(
            q, k, v, self.num_heads, self.scale, self.head_multiple
        )  # (B*F, N, D)
        return mixed.reshape(b, f, n, d)
