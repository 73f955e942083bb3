"""Where a backend picks its kernel; nothing outside this file and `convolution_kernels` does.

Ascend's fast kernels (aclnn) belong to `mint`; CPU and GPU have kernels for `ops`. Every function
here has one meaning and one signature on all backends; callers need not know which one runs.
Normalisations on CPU are written as sums and products, which graph kernel fusion turns into one
loop; the library's own kernels are several times slower there.
"""

import math

import mindspore as ms
from mindspore import Tensor, mint, nn, ops
from mindspore.ops import constexpr
from mindspore.ops.auto_generate import SplitTensor, SplitWithSize

# mint.split makes views from MindSpore 2.8 on. A view counts as a write: in a training step on an
# Ascend every weight would be copied once to keep the order of reads and writes.
_SPLIT, _SPLIT_AT = SplitTensor(), SplitWithSize()

# MindSpore's transposition on CPU builds a table of 8 bytes per element, which stays in memory with
# the graph (2.7.2 to 2.10). Products read their right operand in its stored layout, which is faster
# too; from MindSpore 2.8 on, large tensors are rearranged as a view and then copied: slower,
# without a table.
_MATMUL_TRANSPOSED = ops.MatMul(transpose_b=True)
_BATCH_MATMUL_TRANSPOSED = ops.BatchMatMul(transpose_b=True)
_HAS_VIEWS = tuple(int(part) for part in ms.__version__.split(".")[:2]) >= (2, 8)
_LARGE = 1 << 22  # elements

_HEAD_MULTIPLE = 16  # CANN's flash attention takes head sizes that are multiples of it

_LOG2_E = 1.4426950408889634  # log2(e)
_SQRT_HALF = 0.7071067811865476  # 1 / sqrt(2)
_GELU_SCALE = 1.5957691216057308  # 2 sqrt(2 / pi)


@constexpr
def on_ascend() -> bool:
    """True where the graph is compiled for an Ascend; evaluated while compiling."""
    return bool(ms.get_context("device_target") == "Ascend")


@constexpr
def on_cpu() -> bool:
    """True where it is compiled for a CPU."""
    return bool(ms.get_context("device_target") == "CPU")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for x (..., in), weight (out, in), bias (out,)."""
    if on_ascend():
        return mint.nn.functional.linear(x, weight, bias)
    y = _MATMUL_TRANSPOSED(x.reshape(-1, x.shape[-1]), weight)
    if bias is not None:
        y = y + bias
    return y.reshape((*x.shape[:-1], weight.shape[0]))


def matmul_transposed(x: Tensor, y: Tensor) -> Tensor:
    """x y^T of the last two axes, for x (..., M, K) and y (..., N, K): (..., M, N).

    No backend transposes y for it: the kernels read their right operand in its stored layout.
    """
    return _BATCH_MATMUL_TRANSPOSED(x, y)


def transpose(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x with its axes in the order `axes`."""
    if _as_view(x.shape):
        return mint.permute(x, axes)
    return x.transpose(axes)


@constexpr
def _as_view(shape: tuple[int, ...]) -> bool:
    return _HAS_VIEWS and ms.get_context("device_target") == "CPU" and math.prod(shape) > _LARGE


def embedding(indices: Tensor, table: Tensor) -> Tensor:
    """Rows of table (K, D) for integer indices (...): (..., D)."""
    if on_ascend():
        rows = mint.index_select(table, 0, indices.reshape(-1))
        return rows.reshape((*indices.shape, table.shape[1]))
    return ops.gather(table, indices, 0)


def gather_columns(table: Tensor, index: Tensor) -> Tensor:
    """Columns of table (K, T) at int32 index (B,): (K, B)."""
    if on_ascend():
        return mint.index_select(table, 1, index)
    return ops.gather(table, index, 1)


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Entries of table (S, ...) at int32 index (B,): (B, ...)."""
    if on_ascend():
        return mint.index_select(table, 0, index)
    return ops.gather(table, index, 0)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last axis, statistics and result in float32."""
    x = x.astype(ms.float32)
    size = x.shape[-1]
    if on_ascend():
        return mint.nn.functional.layer_norm(x, (size,), weight, bias, eps)
    centred = x - ops.sum(x, -1, keepdim=True) * (1.0 / size)
    variance = ops.sum(centred * centred, -1, keepdim=True) * (1.0 / size)
    y = centred * ops.rsqrt(variance + eps)
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32."""
    x = x.astype(ms.float32)
    if on_ascend():
        return ops.rms_norm(x, weight, eps)[0]
    mean_square = ops.sum(x * x, -1, keepdim=True) * (1.0 / x.shape[-1])
    return x * ops.rsqrt(mean_square + eps) * weight


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, frames: int = 1
) -> Tensor:
    """Group normalisation of x (N, C, ...), statistics and result in float32.

    `frames` consecutive rows of x are normalised together, as one video.
    """
    x = x.astype(ms.float32)
    n, channels = x.shape[0], x.shape[1]
    if on_ascend():
        if frames == 1:
            return mint.nn.functional.group_norm(x, groups, weight, bias, eps)
        videos = x.reshape(n // frames, frames, channels, -1).transpose(0, 2, 1, 3)
        videos = mint.nn.functional.group_norm(videos, groups, weight, bias, eps)
        return videos.transpose(0, 2, 1, 3).reshape(x.shape)
    grouped = x.reshape(n * groups, -1)
    share = 1.0 / (grouped.shape[-1] * frames)
    mean = _over_frames(ops.sum(grouped, -1, keepdim=True), groups, frames) * share
    centred = grouped - mean
    variance = ops.sum(centred * centred, -1, keepdim=True)
    variance = _over_frames(variance, groups, frames) * share
    # One scale and one shift per channel: the large tensor is read once more and written once.
    scale = ops.rsqrt(variance + eps).reshape(n, groups, 1) * weight.reshape(1, groups, -1)
    shift = bias.reshape(1, groups, -1) - mean.reshape(n, groups, 1) * scale
    y = x.reshape(n, channels, -1) * scale.reshape(n, channels, 1) + shift.reshape(n, channels, 1)
    return y.reshape(x.shape)


def _over_frames(sums: Tensor, groups: int, frames: int) -> Tensor:
    """Sums (N * groups, 1) of single frames, each replaced by the sum over its video."""
    if frames == 1:
        return sums
    videos = sums.reshape(-1, frames, groups)
    whole = ops.sum(videos, 1, keepdim=True)
    return ops.broadcast_to(whole, videos.shape).reshape(sums.shape)


def gelu(x: Tensor) -> Tensor:
    """GELU, tanh approximation: 0.5 x (1 + tanh u) = x sigmoid(2u), u = (x + 0.044715 x^3) c.

    On CPU the fused tanh is wrong by 4e-5 and the unfused kernel is ten times slower than this
    form, whose sigmoid is right to 6e-7.
    """
    if on_ascend():
        return mint.nn.functional.gelu(x, approximate="tanh")
    if not on_cpu():
        return ops.gelu(x, approximate="tanh")
    return x * ops.sigmoid(x * (_GELU_SCALE + _GELU_SCALE * 0.044715 * x * x))


def exact_gelu(x: Tensor) -> Tensor:
    """GELU without approximation: x times the normal distribution function at x."""
    if on_ascend():
        return mint.nn.functional.gelu(x)
    return 0.5 * x * (1.0 + ops.erf(x * _SQRT_HALF))


def relu(x: Tensor) -> Tensor:
    """x where it is positive, 0 elsewhere."""
    if on_ascend():
        return mint.nn.functional.relu(x)
    return ops.relu(x)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger one of each pair of elements."""
    if on_ascend():
        return mint.maximum(x, y)
    return ops.maximum(x, y)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    if on_ascend():
        return mint.nn.functional.silu(x)
    return ops.silu(x)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, computed in float32 and returned in x's dtype."""
    return ops.softmax(x.astype(ms.float32), -1).astype(x.dtype)


def exp(x: Tensor) -> Tensor:
    """e ** x.

    The fused exponential on CPU is wrong by 3e-4 of the value; the power is right to 1e-6.
    """
    if on_cpu():
        return ops.pow(2.0, x * _LOG2_E)
    return ops.exp(x)


def clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """x clamped to [low, high]; None means no bound."""
    if on_ascend():
        return mint.clamp(x, low, high)
    if low is not None:
        x = ops.maximum(x, low)
    if high is not None:
        x = ops.minimum(x, high)
    return x


def divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y; the operator itself has no aclnn kernel."""
    if on_ascend():
        return mint.div(x, y)
    return x / y


def mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean over `axes`."""
    if on_ascend():
        return mint.mean(x, axes)
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    return ops.sum(x, axes) * (1.0 / count)


def sum_over(x: Tensor, axis: int, keepdim: bool = False) -> Tensor:
    """Sum over one axis, which `keepdim` keeps with the length 1."""
    if on_ascend():
        return mint.sum(x, axis, keepdim)
    return ops.sum(x, axis, keepdim)


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    if on_ascend():
        return mint.sqrt(x)
    return ops.sqrt(x)


def total(x: Tensor) -> Tensor:
    """Sum of all elements."""
    if on_ascend():
        return mint.sum(x)
    return ops.sum(x)


def split(x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    """Consecutive parts of `size` along `axis`; the last may be shorter."""
    if on_ascend():
        return _SPLIT(x, size, axis)
    return ops.split(x, size, axis)


def split_first(x: Tensor, size: int, axis: int) -> tuple[Tensor, Tensor]:
    """The first `size` entries along `axis`, and the rest."""
    sizes = (size, x.shape[axis] - size)
    if on_ascend():
        return _SPLIT_AT(x, sizes, axis)
    return ops.split(x, sizes, axis)


class _Concat(nn.Cell):
    """mint.cat with a gradient of its own: MindSpore's is made of slices without aclnn kernels."""

    def __init__(self, axis: int) -> None:
        super().__init__(auto_prefix=False)
        self.axis = axis

    def construct(self, parts: tuple[Tensor, ...]) -> Tensor:
        return mint.cat(parts, self.axis)

    def bprop(
        self, parts: tuple[Tensor, ...], _: Tensor, gradient: Tensor
    ) -> tuple[tuple[Tensor, ...]]:
        sizes: tuple[int, ...] = ()
        for part in parts:
            sizes = (*sizes, part.shape[self.axis])
        return (_SPLIT_AT(gradient, sizes, self.axis),)


def concat(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Parts joined along `axis`."""
    if on_ascend():
        return _Concat(axis)(parts)
    return ops.concat(parts, axis)


def zeros_like(x: Tensor) -> Tensor:
    """Zeros in the shape and dtype of x."""
    if on_ascend():
        return mint.zeros_like(x)
    return ops.zeros_like(x)


def pad(x: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Zero padding; `widths` are (before, after) pairs, the last axis first, as in torch."""
    if on_ascend():
        return mint.nn.functional.pad(x, widths)
    # Not `ops.Pad`, which is twenty times slower on CPU, nor `ops.pad`, whose gradient there
    # MindSpore 2.10 adds to that of the call before.
    for place in range(0, len(widths), 2):
        axis, before, after = x.ndim - 1 - place // 2, widths[place], widths[place + 1]
        first = (_zeros_beside(x, axis, before),) if before > 0 else ()
        last = (_zeros_beside(x, axis, after),) if after > 0 else ()
        if before > 0 or after > 0:
            x = concat((*first, x, *last), axis)
    return x


def _zeros_beside(x: Tensor, axis: int, width: int) -> Tensor:
    """Zeros that are joined to `x` along an axis."""
    return ops.zeros((*x.shape[:axis], width, *x.shape[axis + 1 :]), x.dtype)


def has_flash_attention() -> bool:
    """True where `flash_attention` exists; asked while a network is built."""
    return bool(ms.get_context("device_target") == "Ascend")


def has_all_to_all() -> bool:
    """True where `ops.AlltoAll` and groups of ranks exist; asked while a network is built."""
    return bool(ms.get_context("device_target") != "CPU")


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, mask: Tensor | None = None
) -> Tensor:
    """softmax(scale q k^T) v without the score matrix, in 16 bit: (B, M, heads * K).

    Heads are padded with zeros to a head size the kernel takes, which changes no result.

    Args:
        q: (B, M, heads * K); k and v are (B, L, heads * K).
        mask: (B, L), 1 on the keys to attend to, 0 on the others; at least one 1 per row.
    """
    b, length, hidden_size = q.shape
    head_size = hidden_size // heads
    extra = -head_size % _HEAD_MULTIPLE
    discarded = None
    if mask is not None:
        discarded = (mask.astype(ms.int32) == 0).reshape(b, 1, 1, -1)
        discarded = ops.broadcast_to(discarded, (b, 1, length, k.shape[1]))
    y = ops.flash_attention_score(
        _pad_heads(q, heads, extra),
        _pad_heads(k, heads, extra),
        _pad_heads(v, heads, extra),
        heads,
        attn_mask=discarded,
        input_layout="BSH",
        scalar_value=scale,
    )
    if extra > 0:
        y = split_first(y.reshape(b, length, heads, head_size + extra), head_size, 3)[0]
        y = y.reshape(b, length, hidden_size)
    return y


def _pad_heads(x: Tensor, heads: int, extra: int) -> Tensor:
    """'b l (h k) -> b l (h (k + extra))'."""
    if extra == 0:
        return x
    b, length, hidden_size = x.shape
    x = x.reshape(b, length, heads, hidden_size // heads)
    return pad(x, (0, extra)).reshape(b, length, hidden_size + heads * extra)


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where the condition (broadcast) holds, y elsewhere."""
    return ops.select(ops.broadcast_to(condition, x.shape), x, y)


def assign(parameter: Tensor, value: Tensor) -> Tensor:
    """Write `value` into `parameter`."""
    if on_ascend():
        return parameter.copy_(value)
    return ops.assign(parameter, value)
