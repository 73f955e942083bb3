"""The only place where a backend picks its kernel.

Ascend's fast kernels (aclnn) belong to `mint`; CPU and GPU have kernels for `ops`. Every function
here has one meaning and one signature on all backends, and no caller asks which one runs.
Normalisations on CPU are written as sums and products, which graph kernel fusion turns into one
loop; the library's own kernels are several times slower there.
"""

import mindspore as ms
from mindspore import Tensor, mint, ops
from mindspore.ops import constexpr

# MindSpore 2.9 and later carry a oneDNN whose float32 convolution on CPU is a scalar loop
# (1.1 GFLOP/s); unfolding and one matrix product reach 180 to 230 GFLOP/s.
_SLOW_CPU_CONVOLUTION = tuple(int(part) for part in ms.__version__.split(".")[:2]) >= (2, 9)


@constexpr
def on_ascend() -> bool:
    """True where the graph is compiled for an Ascend; evaluated while compiling."""
    return bool(ms.get_context("device_target") == "Ascend")


@constexpr
def _unfold_convolution() -> bool:
    return _SLOW_CPU_CONVOLUTION and ms.get_context("device_target") == "CPU"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for x (..., in), weight (out, in), bias (out,)."""
    if on_ascend():
        return mint.nn.functional.linear(x, weight, bias)
    y = ops.matmul(x.reshape(-1, x.shape[-1]), weight.T)
    if bias is not None:
        y = y + bias
    return y.reshape(x.shape[:-1] + (weight.shape[0],))


def embedding(indices: Tensor, table: Tensor) -> Tensor:
    """Rows of table (K, D) for integer indices (...): (..., D)."""
    if on_ascend():
        return mint.nn.functional.embedding(indices, table)
    return ops.gather(table, indices, 0)


def gather_columns(table: Tensor, index: Tensor) -> Tensor:
    """Columns of table (K, T) at int32 index (B,): (K, B)."""
    if on_ascend():
        return mint.index_select(table, 1, index)
    return ops.gather(table, index, 1)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last axis, statistics and result in float32."""
    x = x.astype(ms.float32)
    width = x.shape[-1]
    if on_ascend():
        return mint.nn.functional.layer_norm(x, (width,), weight, bias, eps)
    centred = x - ops.sum(x, -1, keepdim=True) * (1.0 / width)
    variance = ops.sum(centred * centred, -1, keepdim=True) * (1.0 / width)
    y = centred * ops.rsqrt(variance + eps)
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group normalisation of x (N, C, ...), statistics and result in float32."""
    x = x.astype(ms.float32)
    if on_ascend():
        return mint.nn.functional.group_norm(x, groups, weight, bias, eps)
    n, channels = x.shape[0], x.shape[1]
    grouped = x.reshape(n * groups, -1)
    size = grouped.shape[-1]
    centred = grouped - ops.sum(grouped, -1, keepdim=True) * (1.0 / size)
    variance = ops.sum(centred * centred, -1, keepdim=True) * (1.0 / size)
    y = (centred * ops.rsqrt(variance + eps)).reshape(n, channels, -1)
    y = y * weight.reshape(1, channels, 1) + bias.reshape(1, channels, 1)
    return y.reshape(x.shape)


def gelu(x: Tensor) -> Tensor:
    """GELU, tanh approximation."""
    if on_ascend():
        return mint.nn.functional.gelu(x, approximate="tanh")
    return ops.gelu(x, approximate="tanh")


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    if on_ascend():
        return mint.nn.functional.silu(x)
    return ops.silu(x)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, computed in float32 and returned in x's type."""
    return ops.softmax(x.astype(ms.float32), -1).astype(x.dtype)


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


def total(x: Tensor) -> Tensor:
    """Sum of all elements."""
    if on_ascend():
        return mint.sum(x)
    return ops.sum(x)


def split(x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    """Consecutive parts of `size` along `axis`; the last may be shorter."""
    if on_ascend():
        return mint.split(x, size, axis)
    return ops.split(x, size, axis)


def split_first(x: Tensor, size: int, axis: int) -> tuple[Tensor, Tensor]:
    """The first `size` entries along `axis`, and the rest."""
    sizes = (size, x.shape[axis] - size)
    if on_ascend():
        return mint.split(x, sizes, axis)
    return ops.split(x, sizes, axis)


def concat(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Parts joined along `axis`."""
    if on_ascend():
        return mint.cat(parts, axis)
    return ops.concat(parts, axis)


def pad(x: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Zero padding; `widths` are (before, after) pairs from the last axis backwards, as torch's."""
    if on_ascend():
        return mint.nn.functional.pad(x, widths)
    return ops.pad(x, widths)


def upsample_nearest_2x(x: Tensor) -> Tensor:
    """Every pixel of x (N, C, H, W) twice in both directions: (N, C, 2H, 2W)."""
    n, c, h, w = x.shape
    twice = ops.broadcast_to(x.reshape(n, c, h, 1, w, 1), (n, c, h, 2, w, 2))
    return twice.reshape(n, c, 2 * h, 2 * w)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """2-D convolution of x (N, C, H, W) with weight (O, C, k, k) and zero padding."""
    if on_ascend():
        return mint.nn.functional.conv2d(x, weight, bias, stride, padding)
    if _unfold_convolution():
        return _conv2d_by_matmul(x, weight, stride, padding) + bias.reshape(1, -1, 1, 1)
    y = ops.conv2d(x, weight, None, stride, "pad", padding)
    return y + bias.reshape(1, -1, 1, 1)


def _conv2d_by_matmul(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    n, _, height, width = x.shape
    out, kernel = weight.shape[0], weight.shape[2]
    rows = (height + 2 * padding - kernel) // stride + 1
    columns = (width + 2 * padding - kernel) // stride + 1
    if kernel == 1 and stride == 1:
        patches = x.reshape(n, -1, rows * columns)
    else:
        patches = ops.unfold(x, kernel, padding=padding, stride=stride)
    return ops.matmul(weight.reshape(out, -1), patches).reshape(n, out, rows, columns)


def has_flash_attention() -> bool:
    """True where `flash_attention` exists; asked while a network is built."""
    return bool(ms.get_context("device_target") == "Ascend")


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, head_multiple: int
) -> Tensor:
    """softmax(scale q k^T) v without the score matrix; q, k, v (B, length, heads * K), 16 bit.

    Heads are zero-padded to a multiple of `head_multiple`, which changes no result.
    """
    b, length, width = q.shape
    head = width // heads
    extra = -head % head_multiple
    if extra > 0:
        q, k, v = _pad_heads(q, heads, extra), _pad_heads(k, heads, extra), _pad_heads(v, heads, extra)
    y = ops.flash_attention_score(q, k, v, heads, input_layout="BSH", scalar_value=scale)
    if extra > 0:
        y = mint.split(y.reshape(b, length, heads, head + extra), head, 3)[0]
        y = y.reshape(b, length, width)
    return y


def _pad_heads(x: Tensor, heads: int, extra: int) -> Tensor:
    b, length, width = x.shape
    x = x.reshape(b, length, heads, width // heads)
    return mint.nn.functional.pad(x, (0, extra)).reshape(b, length, width + heads * extra)
