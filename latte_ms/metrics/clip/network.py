"""CLIP's two towers: images and texts to vectors of one space.

Shapes: N images or texts, P patches of an image, L tokens, D hidden size, E length of a vector.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.layers import kernels
from latte_ms.layers.attention import MASKED, attend, join_heads, split_heads
from latte_ms.layers.embeddings import PatchEmbedding
from latte_ms.layers.entry import EntryCell
from latte_ms.layers.linear import Linear
from latte_ms.layers.normalisation import LayerNorm
from latte_ms.metrics.clip.configuration import CLIPConfig, TextConfig, TowerConfig, VisionConfig

_QUICK = 1.702  # of the approximation x sigmoid(1.702 x)


class Attention(nn.Cell):
    """Multi-head self-attention of x (N, L, D), under a bias (L, L) of the scores or none."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        size, self.heads = config.hidden_size, config.num_attention_heads
        self.scale = (size // self.heads) ** -0.5
        self.query, self.key = Linear(size, size), Linear(size, size)
        self.value, self.output = Linear(size, size), Linear(size, size)

    def construct(self, x: Tensor, bias: Tensor | None) -> Tensor:
        shape = (x.shape[0], 1, *x.shape[1:])  # one "frame" for each
        q = split_heads(self.query(x).reshape(shape), self.heads, "spatial")
        k = split_heads(self.key(x).reshape(shape), self.heads, "spatial")
        v = split_heads(self.value(x).reshape(shape), self.heads, "spatial")
        y = join_heads(attend(q, k, v, self.scale, bias), shape, "spatial")
        return self.output(y.reshape(x.shape))


class Mlp(nn.Cell):
    """Linear, activation, Linear."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def construct(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * ops.sigmoid(x * _QUICK) if self.quick else kernels.exact_gelu(x)
        return self.fc2(x)


class Block(nn.Cell):
    """Self-attention, then an MLP, each on normalised tokens."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config)

    def construct(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.mlp(self.mlp_norm(x))


class TextTower(nn.Cell):
    """Tokens, of which each sees those before it, to the normalised state of the last one."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, length = config.hidden_size, config.max_position_embeddings
        self.tokens = Parameter(ops.zeros((config.vocab_size, size), ms.float32))
        self.positions = Parameter(ops.zeros((length, size), ms.float32))
        self.blocks = nn.CellList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(size, config.layer_norm_eps)

    def construct(self, ids: Tensor, last: Tensor) -> Tensor:
        """ids (N, L) int32, last (N, L) float32, 1 on the last token, 0 on the others: (N, D)."""
        x = kernels.embedding(ids, self.tokens) + self.positions
        bias = _causal_bias(ids.shape[1])
        for block in self.blocks:
            x = block(x, bias)
        return kernels.sum_over(self.norm(x) * last.reshape(*last.shape, 1), 1)


class ImageTower(nn.Cell):
    """Patches and a class token to the normalised state of the latter."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.patches = PatchEmbedding(config.patch_size, config.num_channels, size, bias=False)
        self.class_token = Parameter(ops.zeros((size,), ms.float32))
        self.positions = Parameter(ops.zeros((config.num_patches + 1, size), ms.float32))
        self.first_norm = LayerNorm(size, eps)
        self.blocks = nn.CellList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(size, eps)

    def construct(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D)."""
        n, size = images.shape[0], self.class_token.shape[0]
        patches = self.patches(images.reshape(1, *images.shape)).reshape(n, -1, size)
        token = ops.broadcast_to(self.class_token.reshape(1, 1, size), (n, 1, size))
        x = self.first_norm(kernels.concat((token, patches), 1) + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(kernels.split_first(x, 1, 1)[0].reshape(n, size))


class CLIP(nn.Cell):
    """Both towers with their projections; `ImageVectors` and `TextVectors` run them."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.text, self.vision = TextTower(config.text), ImageTower(config.vision)
        self.text_projection = Linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = Linear(
            config.vision.hidden_size, config.projection_dim, bias=False
        )


class ImageVectors(EntryCell):
    """Images (N, 3, H, W), normalised, to vectors (N, E)."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__(auto_prefix=False)
        self.tower, self.projection = clip.vision, clip.visual_projection

    def construct(self, images: Tensor) -> Tensor:
        return self.projection(self.tower(images))


class TextVectors(EntryCell):
    """Tokens of texts to vectors (N, E); see `TextTower` for the arguments."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__(auto_prefix=False)
        self.tower, self.projection = clip.text, clip.text_projection

    def construct(self, ids: Tensor, last: Tensor) -> Tensor:
        return self.projection(self.tower(ids, last))


@constexpr
def _causal_bias(length: int) -> Tensor:
    """Added to the scores (L, L) so that no token sees a later one."""
    return Tensor(np.triu(np.full((length, length), MASKED, np.float32), 1))
