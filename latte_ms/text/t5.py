"""The encoder of T5 v1.1 (Raffel et al., 2020; Shazeer, 2020) on MindSpore.

mindone 0.5.0 has this encoder too. On CPU with MindSpore 2.8.0 it is wrong or does not run: in
graph mode it puts the distances 16, 32 and 64 into a wrong bucket of the relative positions, which
changes the embeddings by 16 to 39% of their largest value, and in PyNative mode the embedding
kernel is missing. It also holds all weights at once, imports transformers, which takes 600 MB, and
its slicing keeps an Ascend from using fast kernels.

Shapes: B prompts, L tokens, D hidden size, H heads, K channels of a head.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell
from latte_ms.layers.linear import Linear
from latte_ms.layers.normalisation import RmsNorm
from latte_ms.text.t5_configuration import T5Config

FLOAT16_MAX = 65504.0
FLOAT32_WEIGHT = "mlp.down.weight"  # name within a block; float16 would overflow in its product
# Added to the scores of padding; minus infinity would make a row without any token NaN.
PADDING_BIAS = float(np.finfo(np.float32).min)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The row of the position table for each pair of tokens, (length, length) int32.

    Half of the rows are for keys after the query. In each half, the first half of the rows are for
    single distances; the others are spaced logarithmically up to `max_distance`, and the last is
    for all distances beyond. Computed in float32 as in the reference: rounding decides where a row
    begins.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]  # key minus query
    half, single = buckets // 2, buckets // 4
    distance = np.abs(offset)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(single))
    scaled = ratio / np.float32(np.log(max_distance / single)) * np.float32(half - single)
    spaced = np.minimum(single + scaled.astype(np.int64), half - 1)
    rows = np.where(distance < single, distance, spaced) + np.where(offset > 0, half, 0)
    return rows.astype(np.int32)


@constexpr
def _buckets(length: int, buckets: int, max_distance: int) -> Tensor:
    return Tensor(relative_buckets(length, buckets, max_distance))


class TokenEmbedding(nn.Cell):
    """One row per token: ids (B, L) -> (B, L, D) float32."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = Parameter(ops.zeros((config.vocab_size, config.d_model), ms.float32))

    def construct(self, ids: Tensor) -> Tensor:
        return kernels.embedding(ids, self.weight).astype(ms.float32)


class AttentionBias(nn.Cell):
    """A learned bias on the scores of each head for each bucket of distances, for all blocks."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.weight = Parameter(ops.zeros((self.buckets, config.num_heads), ms.float32))

    def construct(self, mask: Tensor) -> Tensor:
        """Bias (B, H, L, L) float32 of the scores under mask (B, L), which is 0 on padding."""
        b, length = mask.shape
        rows = kernels.embedding(_buckets(length, self.buckets, self.max_distance), self.weight)
        positions = rows.astype(ms.float32).transpose(2, 0, 1)  # (H, L, L)
        padding = (1.0 - mask.astype(ms.float32)) * PADDING_BIAS
        return positions + padding.reshape(b, 1, 1, length)


class SelfAttention(nn.Cell):
    """softmax(q k^T + bias) v. Scores are not scaled: T5's initial weights compensate."""

    def __init__(self, config: T5Config, dtype: ms.Type) -> None:
        super().__init__()
        hidden, inner = config.d_model, config.inner_size
        self.heads = config.num_heads
        self.dtype = dtype
        self.query = Linear(hidden, inner, bias=False, dtype=dtype)
        self.key = Linear(hidden, inner, bias=False, dtype=dtype)
        self.value = Linear(hidden, inner, bias=False, dtype=dtype)
        self.output = Linear(inner, hidden, bias=False, dtype=dtype)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, L, D), (B, H, L, L)
        b, length, _ = x.shape
        shape = (b, length, self.heads, -1)
        q = self.query(x).reshape(shape).transpose(0, 2, 1, 3)  # (B, H, L, K)
        k = self.key(x).reshape(shape).transpose(0, 2, 1, 3)
        v = self.value(x).reshape(shape).transpose(0, 2, 1, 3)
        scores = kernels.matmul_transposed(q, k).astype(ms.float32) + bias
        attended = ops.matmul(kernels.softmax(scores).astype(self.dtype), v)
        return self.output(attended.transpose(0, 2, 1, 3).reshape(b, length, -1))


class GatedMlp(nn.Cell):
    """down(gelu(gate(x)) * up(x)). `down` stays float32 under float16, where it would overflow."""

    def __init__(self, config: T5Config, dtype: ms.Type) -> None:
        super().__init__()
        hidden, inner = config.d_model, config.d_ff
        self.gate = Linear(hidden, inner, bias=False, dtype=dtype)
        self.up = Linear(hidden, inner, bias=False, dtype=dtype)
        down_dtype = ms.float32 if dtype == ms.float16 else dtype
        self.down = Linear(inner, hidden, bias=False, dtype=down_dtype)

    def construct(self, x: Tensor) -> Tensor:
        return self.down(kernels.gelu(clamped_float32(self.gate(x))) * clamped_float32(self.up(x)))


def clamped_float32(x: Tensor) -> Tensor:
    """x in float32; values that overflowed in float16 are clamped to its range."""
    if x.dtype == ms.float16:
        return kernels.clamp(x.astype(ms.float32), -FLOAT16_MAX, FLOAT16_MAX)
    return x.astype(ms.float32)


class T5Block(nn.Cell):
    """Self-attention, then a gated MLP, each on normalised tokens. Residuals are float32."""

    def __init__(self, config: T5Config, dtype: ms.Type) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = SelfAttention(config, dtype)
        self.mlp_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.mlp = GatedMlp(config, dtype)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, L, D) float32 and the bias of `AttentionBias`: (B, L, D) float32."""
        x = x + clamped_float32(self.attention(self.attention_norm(x), bias))
        return x + self.mlp(self.mlp_norm(x)).astype(ms.float32)


class T5Encoder(EntryCell):
    """Token ids to embeddings, for inference: all weights in memory, one graph.

    Args:
        config: what to build.
        dtype: compute dtype of matrix products; under float16 the last one of each MLP is float32.
            Norms, softmax, residuals and the output are float32.
        parameter_dtype: dtype of the weights; None: `dtype`, or float32 where the matrix product
            stays float32.
        seed: draws the initial weights; None leaves them zero, to be loaded.
    """

    def __init__(
        self,
        config: T5Config,
        dtype: ms.Type = ms.float32,
        parameter_dtype: ms.Type | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        rng = None if seed is None else np.random.default_rng(seed)
        self.shared = TokenEmbedding(config)
        self.positions = AttentionBias(config)
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        prepare_parameters(self, config, dtype, parameter_dtype, rng)
        self.blocks = nn.CellList()
        for _ in range(config.num_layers):
            block = T5Block(config, dtype)
            # Block by block: all of them in float32 at once would take twice the memory.
            prepare_parameters(block, config, dtype, parameter_dtype, rng)
            self.blocks.append(block)

    def construct(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (B, L, D) float32 of ids (B, L) int32 under mask (B, L), 0 on padding."""
        x = self.shared(ids)
        bias = self.positions(mask)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)

    def embed(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`construct` for arrays, prompt by prompt: one graph serves any number of prompts, and an
        embedding does not depend on the others."""
        rows = [
            self(Tensor(ids[i : i + 1]), Tensor(mask[i : i + 1])).asnumpy() for i in range(len(ids))
        ]
        return np.concatenate(rows)


def prepare_parameters(
    cell: nn.Cell,
    config: T5Config,
    dtype: ms.Type,
    parameter_dtype: ms.Type | None,
    rng: np.random.Generator | None,
) -> None:
    """Set the dtype of a cell's weights, and draw them like the reference unless `rng` is None."""
    for name, parameter in cell.parameters_and_names():
        if rng is not None and not name.endswith("norm.weight"):
            values = rng.standard_normal(parameter.shape, np.float32)
            parameter.set_data(Tensor(values * np.float32(_std(name, parameter, config))))
        required = parameter_dtype
        if required is None:
            required = ms.float32 if dtype == ms.float16 and name == FLOAT32_WEIGHT else dtype
        if parameter.dtype != required:
            parameter.set_dtype(required)


def _std(name: str, parameter: Parameter, config: T5Config) -> float:
    """Standard deviation as in Mesh TensorFlow; the query's replaces a scale on the scores."""
    if name == "shared.weight":
        return 1.0
    if name == "positions.weight":
        return float(config.d_model**-0.5)
    std = parameter.shape[1] ** -0.5
    return float(std * config.d_kv**-0.5 if "query" in name else std)
