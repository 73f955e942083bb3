"""The only place where a backend picks its kernel.

Ascend's fast kernels (aclnn) belong to `mint`; CPU and GPU have kernels for `ops`. Every function
here has one meaning and one signature on all backends, and no caller asks which one runs.
Normalisations on CPU are written as sums and products, which graph kernel fusion turns into one
loop; the library's own kernels are several times slower there.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, nn, ops
from mindspore.ops import constexpr
from mindspore.ops.auto_generate import SplitTensor, SplitWithSize

# MindSpore 2.9 and later carry a oneDNN whose float32 convolution on CPU is a scalar loop
# (1.1 GFLOP/s); unfolding and one matrix product reach 180 to 230 GFLOP/s.
_SLOW_CPU_CONVOLUTION = tuple(int(part) for part in ms.__version__.split(".")[:2]) >= (2, 9)

# mint.split makes views from MindSpore 2.8 on. A view counts as a write: in a training step on an
# Ascend every weight would be copied once to keep the order of reads and writes.
_SPLIT, _SPLIT_AT = SplitTensor(), SplitWithSize()

_LOG2_E = 1.4426950408889634  # log2(e)
_GELU_SCALE = 1.5957691216057308  # 2 sqrt(2 / pi)


@constexpr
def on_ascend() -> bool:
    """True where the graph is compiled for an Ascend; evaluated while compiling."""
    return bool(ms.get_context("device_target") == "Ascend")


@constexpr
def _on_cpu() -> bool:
    return bool(ms.get_context("device_target") == "CPU")


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
    return y.reshape((*x.shape[:-1], weight.shape[0]))


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
    mean = ops.sum(grouped, -1, keepdim=True) * (1.0 / size)
    centred = grouped - mean
    variance = ops.sum(centred * centred, -1, keepdim=True) * (1.0 / size)
    # One scale and one shift per channel: the large tensor is read once more and written once.
    scale = ops.rsqrt(variance + eps).reshape(n, groups, 1) * weight.reshape(1, groups, -1)
    shift = bias.reshape(1, groups, -1) - mean.reshape(n, groups, 1) * scale
    y = x.reshape(n, channels, -1) * scale.reshape(n, channels, 1) + shift.reshape(n, channels, 1)
    return y.reshape(x.shape)


def gelu(x: Tensor) -> Tensor:
    """GELU, tanh approximation: 0.5 x (1 + tanh u) = x sigmoid(2u), u = (x + 0.044715 x^3) c.

    On CPU the fused tanh is wrong by 4e-5 and the unfused kernel is ten times slower than this
    form, whose sigmoid is right to 6e-7.
    """
    if on_ascend():
        return mint.nn.functional.gelu(x, approximate="tanh")
    if not _on_cpu():
        return ops.gelu(x, approximate="tanh")
    return x * ops.sigmoid(x * (_GELU_SCALE + _GELU_SCALE * 0.044715 * x * x))


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    if on_ascend():
        return mint.nn.functional.silu(x)
    return ops.silu(x)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, computed in float32 and returned in x's type."""
    return ops.softmax(x.astype(ms.float32), -1).astype(x.dtype)


def exp(x: Tensor) -> Tensor:
    """e ** x.

    The fused exponential on CPU is wrong by 3e-4 of the value; the power is right to 1e-6.
    """
    if _on_cpu():
        return ops.pow(2.0, x * _LOG2_E)
    return ops.exp(x)


def clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """x brought into [low, high]; None is no bound."""
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


def pad(x: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Zero padding; `widths` are (before, after) pairs from the last axis backwards, as torch's."""
    if on_ascend():
        return mint.nn.functional.pad(x, widths)
    return ops.pad(x, widths)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: tuple[int, int, int, int]
) -> Tensor:
    """2-D convolution of x (N, C, H, W) with weight (O, C, k, k) and bias (O,).

    `padding` counts the zero rows and columns at the top, bottom, left and right.
    """
    top, bottom, left, right = padding
    if on_ascend():
        if top == bottom and left == right:
            return mint.nn.functional.conv2d(x, weight, bias, stride, (top, left))
        x = mint.nn.functional.pad(x, (left, right, top, bottom))
        return mint.nn.functional.conv2d(x, weight, bias, stride, 0)
    return _conv2d(x, weight, stride, padding) + bias.reshape(1, -1, 1, 1)


def conv2d_of_doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 x 3 convolution of x (N, C, H, W) with every pixel doubled: (N, O, 2H, 2W).

    Weight (O, C, 3, 3) may be float32 beside a 16-bit x. The 3 x 3 window over doubled pixels sees
    2 x 2 different ones: four 2 x 2 kernels, one for each parity of row and column, give the same
    sums with 4 products where there were 9, and the doubled picture is never made. (An Ascend
    doubles it: its rearrangement of the four results may cost more than the products saved.)
    """
    if on_ascend():
        doubled = mint.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return conv2d(doubled, weight.astype(x.dtype), bias, 1, (1, 1, 1, 1))
    n, _, h, w = x.shape
    out = weight.shape[0]
    y = _conv2d(x, _parity_kernels(weight).astype(x.dtype), 1, (1, 1, 1, 1))
    y = y.reshape(n, 2, 2, out, h + 1, w + 1).transpose(0, 3, 4, 1, 5, 2)
    y = y.reshape(n, out, 2 * h + 2, 2 * w + 2)  # one pixel too many on every side
    return ops.slice(y, (0, 0, 1, 1), (n, out, 2 * h, 2 * w)) + bias.reshape(1, -1, 1, 1)


@constexpr
def _parity_sums() -> tuple[Tensor, ...]:
    """Which of the 9 weights each of the 4 products of a 2 x 2 kernel sums: 4 x (9, 4), 0 or 1.

    The order of the kernels is that of the output pixels between four input pixels: first the one
    that looks down and right, an odd row and column of the doubled picture.
    """
    even = np.array([[1, 0], [0, 1], [0, 1]], np.float32)  # weights of 3 rows -> 2 input rows
    odd = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    return tuple(Tensor(np.kron(rows, cols)) for rows in (odd, even) for cols in (odd, even))


def _parity_kernels(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (4 * O, C, 2, 2), float32."""
    out, channels = weight.shape[0], weight.shape[1]
    rows = weight.astype(ms.float32).reshape(-1, 9)
    kernels = [ops.matmul(rows, sums) for sums in _parity_sums()]
    return ops.concat(kernels, 0).reshape(4 * out, channels, 2, 2)


def _conv2d(x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
    if _unfold_convolution():
        return _conv2d_by_matmul(x, weight, stride, padding)
    convolve = ops.Conv2D(weight.shape[0], weight.shape[2], 1, "pad", padding, stride)
    return convolve(x, weight)


def _conv2d_by_matmul(
    x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]
) -> Tensor:
    top, bottom, left, right = padding
    if top != bottom or left != right or top != left:
        x = ops.pad(x, (left, right, top, bottom))
        top, bottom, left, right = 0, 0, 0, 0
    n, _, height, width = x.shape
    out, kernel = weight.shape[0], weight.shape[2]
    rows = (height + top + bottom - kernel) // stride + 1
    columns = (width + left + right - kernel) // stride + 1
    if kernel == 1 and stride == 1:
        patches = x.reshape(n, -1, rows * columns)
    else:
        patches = ops.unfold(x, kernel, padding=top, stride=stride)
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
        q, k, v = (
            _pad_heads(q, heads, extra),
            _pad_heads(k, heads, extra),
            _pad_heads(v, heads, extra),
        )
    y = ops.flash_attention_score(q, k, v, heads, input_layout="BSH", scalar_value=scale)
    if extra > 0:
        y = _SPLIT(y.reshape(b, length, heads, head + extra), head, 3)[0]
        y = y.reshape(b, length, width)
    return y


def _pad_heads(x: Tensor, heads: int, extra: int) -> Tensor:
    b, length, width = x.shape
    x = x.reshape(b, length, heads, width // heads)
    return mint.nn.functional.pad(x, (0, extra)).reshape(b, length, width + heads * extra)


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where the condition (broadcast) holds, y elsewhere."""
    return ops.select(ops.broadcast_to(condition, x.shape), x, y)


def assign(parameter: Tensor, value: Tensor) -> Tensor:
    """Write `value` into `parameter`."""
    if on_ascend():
        return parameter.copy_(value)
    return ops.assign(parameter, value)
