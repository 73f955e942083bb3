"""Multi-head attention of the tokens of a video to the tokens of its text.

Shapes: B batch, F frames, N tokens of a frame, L tokens of the text, D width, K head width.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear

# Added to the scores of masked tokens; in float32 their weights are exactly zero beside any other.
MASKED = -10000.0


class CrossAttention(nn.Cell):
    """Attention of x (B, F, N, D) to keys and values that are the same in every frame.

    Keys and values are made once per text, by `project`, and kept. The frames of a video are one
    long row of queries, so no key is repeated for a frame.

    Args:
        bias: of queries, keys and values.
        head_multiple: see `layers.attention.Attention`.
    Raises:
        ValueError: `width` does not divide by `num_heads`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        bias: bool = True,
        dtype: ms.Type = ms.float32,
        head_multiple: int = 1,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"`hidden_size` (={width}) must be divisible by `num_heads` (={num_heads})."
            )
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.head_multiple = head_multiple
        self.flash = dtype != ms.float32 and kernels.has_flash_attention()
        self.query = Linear(width, width, bias, dtype)
        # The gradient of the key's bias is zero, as in `layers.attention.Attention`.
        self.key = Linear(width, width, bias, dtype, train_bias=False)
        self.value = Linear(width, width, bias, dtype)
        self.output = Linear(width, width, dtype=dtype)

    def project(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of text (..., L, D), each (..., L, D)."""
        return self.key(text), self.value(text)

    def construct(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, F, N, D) to keys and values (B, L, D); mask (B, L), 1 to see a token, 0 not to.

        Keys (B, 1 + I, L, D), with a mask (B, 1 + I, L), hold one text for the first F - I frames
        and one for each of the I images behind them.
        """
        b, f, n, d = x.shape
        q = self.query(x)
        if keys.ndim == 3:
            mixed = self._attend(q.reshape(b, f * n, d), keys, values, mask)
        else:
            mixed = self._attend_each(q, keys, values, mask)
        return self.output(mixed.reshape(b, f, n, d))

    def _attend_each(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The first of 1 + I texts for the frames, each of the others for its image."""
        b, f, n, d = q.shape
        images = keys.shape[1] - 1
        video_q, image_q = kernels.split_first(q, f - images, 1)
        video_k, image_k = kernels.split_first(keys, 1, 1)
        video_v, image_v = kernels.split_first(values, 1, 1)
        video_mask, image_mask = None, None
        if mask is not None:
            video_mask, image_mask = kernels.split_first(mask.astype(ms.float32), 1, 1)
            video_mask = video_mask.reshape(b, -1)
            image_mask = image_mask.reshape(b * images, -1)
        video = self._attend(_rows(video_q, b), _rows(video_k, b), _rows(video_v, b), video_mask)
        rows = b * images
        still = self._attend(
            _rows(image_q, rows), _rows(image_k, rows), _rows(image_v, rows), image_mask
        )
        return kernels.concat((video.reshape(b, -1, n, d), still.reshape(b, -1, n, d)), 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q (R, M, D) to k and v (R, L, D), mask (R, L): (R, M, D)."""
        if self.flash and mask is None:
            return kernels.flash_attention(q, k, v, self.num_heads, self.scale, self.head_multiple)
        r, m, d = q.shape
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        scores = kernels.matmul_transposed(q * self.scale, k)  # (R, H, M, L)
        if mask is not None:
            bias = (1.0 - mask.astype(ms.float32)) * MASKED
            scores = scores.astype(ms.float32) + bias.reshape(r, 1, 1, -1)
        mixed = ops.matmul(kernels.softmax(scores).astype(v.dtype), v)
        return kernels.transpose(mixed, (0, 2, 1, 3)).reshape(r, m, d)

    def _heads(self, x: Tensor) -> Tensor:
        """'r m (h k) -> r h m k'."""
        r, m, d = x.shape
        heads = self.num_heads
        return kernels.transpose(x.reshape(r, m, heads, d // heads), (0, 2, 1, 3))


def _rows(x: Tensor, count: int) -> Tensor:
    """All axes but the last as `count` rows: (count, M, D)."""
    return x.reshape(count, -1, x.shape[-1])
