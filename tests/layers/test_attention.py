"""Self- and cross-attention against their formula in float64, by plain products and by flash.

No CPU has the flash-attention kernel: in its place stands a function that computes what CANN's
documentation says of it, and refuses what the kernel would refuse.
"""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from latte_ms.layers import kernels
from latte_ms.layers.attention import CrossAttention, SelfAttention

# Fixed before looking, relative to the largest reference value.
VALUE, HALF = 1e-5, 5e-3
SIZE, HEADS, IMAGES, LENGTH = 24, 3, 2, 5
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 9, SIZE)).astype(np.float32)
PROMPT = RNG.standard_normal((2, LENGTH, SIZE)).astype(np.float32)
PROMPTS = RNG.standard_normal((2, 1 + IMAGES, LENGTH, SIZE)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32)
MASKS = np.array([[[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]] * 2, np.int32)
Parameters = dict[str, np.ndarray]


def flash_attention_score(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    attn_mask: Tensor | None = None,
    input_layout: str = "BNSD",
    scalar_value: float = 1.0,
) -> Tensor:
    """softmax(scale q k^T, 1 in the mask discarded) v of (B, S, heads * K), layout BSH."""
    b, m, width = q.shape
    if input_layout != "BSH" or (width // heads) % 16:
        raise ValueError(f"not a layout or head width of the kernel: {input_layout}, {width}.")

    def split(x: Tensor) -> Tensor:
        x = x.astype(ms.float32).reshape(b, -1, heads, width // heads)
        return x.transpose(0, 2, 1, 3)

    scores = ops.matmul(split(q), split(k).transpose(0, 1, 3, 2)) * scalar_value
    if attn_mask is not None:
        if attn_mask.dtype != ms.bool_ or attn_mask.shape != (b, 1, m, k.shape[1]):
            raise ValueError(f"not a mask of the kernel: {attn_mask.shape}.")
        scores = scores - attn_mask.astype(ms.float32) * 1e9
    mixed = ops.matmul(ops.softmax(scores, -1), split(v)).transpose(0, 2, 1, 3)
    return mixed.reshape(b, m, width).astype(q.dtype)


@pytest.fixture
def with_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks built in the test use flash attention, as on an Ascend."""
    monkeypatch.setattr(kernels, "has_flash_attention", lambda: True)
    monkeypatch.setattr(ops, "flash_attention_score", flash_attention_score)


def sequence64(
    p: Parameters, x: np.ndarray, other: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Attention of one sequence (length, SIZE) to another, head by head, before the output."""
    head = SIZE // HEADS
    mixed = np.zeros_like(x)
    for h in range(HEADS):
        mine = slice(h * head, (h + 1) * head)
        q, k, v = (
            tokens @ p[f"{name}.weight"][mine].T + p[f"{name}.bias"][mine]
            for name, tokens in (("query", x), ("key", other), ("value", other))
        )
        weights = np.exp(q @ k.T / np.sqrt(head))
        if mask is not None:
            weights = weights * mask
        mixed[:, mine] = weights / weights.sum(1, keepdims=True) @ v
    return mixed @ p["output.weight"].T + p["output.bias"]


def self64(values: Parameters, over: str) -> np.ndarray:
    p = {name: value.astype(np.float64) for name, value in values.items()}
    x, y = X.astype(np.float64), np.zeros(X.shape)
    for b in range(X.shape[0]):
        if over == "spatial":
            for f in range(X.shape[1]):
                y[b, f] = sequence64(p, x[b, f], x[b, f])
        else:
            for n in range(X.shape[2]):
                y[b, :, n] = sequence64(p, x[b, :, n], x[b, :, n])
    return y


def cross64(values: Parameters, prompts: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
    """`prompts` (B, L, D) for all frames, or (B, 1 + I, L, D) with one for each of the last I."""
    p = {name: value.astype(np.float64) for name, value in values.items()}
    y = np.zeros(X.shape)
    for b in range(X.shape[0]):
        for f in range(X.shape[1]):
            place: tuple[int, ...] = (b,)
            if prompts.ndim == 4:
                place = (b, max(0, f - (X.shape[1] - IMAGES) + 1))
            mask = None if masks is None else masks[place]
            y[b, f] = sequence64(p, X[b, f].astype(np.float64), prompts[place], mask)
    return y


@pytest.mark.parametrize("over", ["spatial", "temporal"])
@pytest.mark.parametrize(("dtype", "bound"), [(ms.float32, VALUE), (ms.float16, HALF)])
def test_self_attention(
    filled: Callable, error: Callable, over: str, dtype: ms.Type, bound: float
) -> None:
    layer = SelfAttention(SIZE, HEADS, over, dtype)
    expected = self64(filled(layer), over)
    y = layer(Tensor(X))
    assert y.dtype == dtype
    assert error(y.asnumpy(), expected) <= bound


def cross(layer: CrossAttention, prompts: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
    keys, values = layer.project(Tensor(prompts))
    mask = None if masks is None else Tensor(masks)
    return layer(Tensor(X), keys, values, mask).asnumpy()


CONDITIONS = [(PROMPT, None), (PROMPT, MASK), (PROMPTS, None), (PROMPTS, MASKS)]
# In float16 the richest by default: the others differ from it in their shapes alone.
IN_HALF = [*(pytest.param(*c, marks=pytest.mark.slow) for c in CONDITIONS[:3]), CONDITIONS[3]]


@pytest.mark.parametrize(("prompts", "masks"), CONDITIONS)
def test_cross_attention(
    filled: Callable,
    error: Callable,
    prompts: np.ndarray,
    masks: np.ndarray | None,
) -> None:
    layer = CrossAttention(SIZE, HEADS)
    expected = cross64(filled(layer), prompts, masks)
    assert error(cross(layer, prompts, masks), expected) <= VALUE


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "masks"), IN_HALF)
def test_cross_attention_in_float16(
    filled: Callable, error: Callable, prompts: np.ndarray, masks: np.ndarray | None
) -> None:
    layer = CrossAttention(SIZE, HEADS, ms.float16)
    expected = cross64(filled(layer), prompts, masks)
    assert error(cross(layer, prompts, masks), expected) <= HALF


@pytest.mark.usefixtures("with_flash")
def test_flash_self_attention_is_spatial(filled: Callable, error: Callable) -> None:
    layer = SelfAttention(SIZE, HEADS, "spatial", ms.float16)
    expected = self64(filled(layer), "spatial")
    assert layer.flash
    assert error(layer(Tensor(X)).asnumpy(), expected) <= HALF
    assert not SelfAttention(SIZE, HEADS, "temporal", ms.float16).flash
    assert not SelfAttention(SIZE, HEADS, "spatial", ms.float32).flash


@pytest.mark.usefixtures("with_flash")
@pytest.mark.parametrize(("prompts", "masks"), CONDITIONS)
def test_flash_cross_attention(
    filled: Callable, error: Callable, prompts: np.ndarray, masks: np.ndarray | None
) -> None:
    layer = CrossAttention(SIZE, HEADS, ms.float16)
    expected = cross64(filled(layer), prompts, masks)
    assert layer.flash
    assert error(cross(layer, prompts, masks), expected) <= HALF


def flash(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    return kernels.flash_attention(q, k, k, HEADS, 0.25, mask)


@pytest.mark.usefixtures("with_flash")
@pytest.mark.parametrize("head", [8, 16, 72])
def test_padded_heads_change_no_result(compiled: Callable, error: Callable, head: int) -> None:
    q, k = (
        RNG.standard_normal((2, length, HEADS * head)).astype(np.float32) for length in (7, LENGTH)
    )
    y = compiled(flash, q, k, MASK)
    queries, keys = (x.astype(np.float64).reshape(2, -1, HEADS, head) for x in (q, k))
    weights = np.exp(0.25 * np.einsum("bmhk,blhk->bhml", queries, keys)) * MASK[:, None, None]
    weights = weights / weights.sum(-1, keepdims=True)
    expected = np.einsum("bhml,blhk->bmhk", weights, keys).reshape(q.shape)
    assert error(y, expected) <= VALUE


@pytest.mark.parametrize("over", ["spatial", "temporal"])
def test_a_bias_on_all_keys_has_a_gradient_of_exactly_zero(
    parameter_gradients: Callable, filled: Callable, over: str
) -> None:
    layer = SelfAttention(SIZE, HEADS, over)
    filled(layer)
    gradients = parameter_gradients(layer, X, X)
    assert not gradients.pop("key.bias").any()
    assert all(gradient.any() for gradient in gradients.values())


def test_indivisible_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`hidden_size` \(=24\) .* by `num_heads` \(=5\)"):
        SelfAttention(24, 5, "spatial")
