"""Attention over space and over time against its formula in float64."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.layers.attention import Attention

# Fixed before looking, relative to the largest reference value.
VALUE, HALF = 1e-5, 5e-3
WIDTH, HEADS = 24, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 9, WIDTH)).astype(np.float32)


def sequence64(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Attention of one sequence (length, WIDTH), head by head."""
    head = WIDTH // HEADS
    mixed = np.zeros_like(x)
    for h in range(HEADS):
        mine = slice(h * head, (h + 1) * head)
        q, k, v = (
            x @ p[f"{name}.weight"][mine].T + p[f"{name}.bias"][mine]
            for name in ("query", "key", "value")
        )
        weights = np.exp(q @ k.T / np.sqrt(head))
        mixed[:, mine] = weights / weights.sum(1, keepdims=True) @ v
    return mixed @ p["output.weight"].T + p["output.bias"]


def expected(values: dict[str, np.ndarray], over: str) -> np.ndarray:
    p = {name: value.astype(np.float64) for name, value in values.items()}
    y = np.zeros(X.shape)
    for b in range(X.shape[0]):
        if over == "space":
            for f in range(X.shape[1]):
                y[b, f] = sequence64(p, X[b, f].astype(np.float64))
        else:
            for n in range(X.shape[2]):
                y[b, :, n] = sequence64(p, X[b, :, n].astype(np.float64))
    return y


@pytest.mark.parametrize("over", ["space", "time"])
@pytest.mark.parametrize(("dtype", "bound"), [(ms.float32, VALUE), (ms.float16, HALF)])
def test_attention(
    filled: Callable, error: Callable, over: str, dtype: ms.Type, bound: float
) -> None:
    layer = Attention(WIDTH, HEADS, over, dtype)
    wanted = expected(filled(layer), over)
    found = layer(Tensor(X))
    assert found.dtype == dtype
    assert error(found.asnumpy(), wanted) <= bound


@pytest.mark.parametrize("over", ["space", "time"])
def test_a_bias_on_all_keys_has_a_gradient_of_exactly_zero(
    parameter_gradients: Callable, filled: Callable, over: str
) -> None:
    layer = Attention(WIDTH, HEADS, over)
    filled(layer)
    gradients = parameter_gradients(layer, X, X)
    assert not gradients.pop("key.bias").any()
    assert all(gradient.any() for gradient in gradients.values())


def test_indivisible_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`hidden_size` \(=24\) .* by `num_heads` \(=5\)"):
        Attention(24, 5, "space")
