"""What graph kernel fusion on CPU once computed wrongly: these graphs, fused, against float64.

Left to itself, fusion is silently wrong where a transposition is fused with what is computed before
it and used twice after it, and its exponential is inexact. The kernels and the settings of
`latte_ms.runtime` avoid that. Shapes are large enough for the loops that went wrong.
"""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from latte_ms.layers import kernels
from latte_ms.layers.attention import split_heads
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Block

# Fixed before looking, relative to the largest reference value.
VALUE, GRADIENT = 1e-5, 1e-5
HEADS = 4
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def project_spatial(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return split_heads(kernels.linear(x, weight, bias), HEADS, "spatial") * 2.0


def project_temporal(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return split_heads(kernels.linear(x, weight, bias), HEADS, "temporal") * 2.0


@pytest.mark.parametrize(
    ("function", "pattern"),
    [(project_spatial, (0, 1, 3, 2, 4)), (project_temporal, (0, 2, 3, 1, 4))],
)
def test_bias_gradient_of_a_projection_whose_heads_are_split(
    with_gradient: Callable, error: Callable, function: Callable, pattern: tuple[int, ...]
) -> None:
    """Backwards: a product, a transposition, then a sum for the bias and a product for x."""
    b, f, n, d = 2, 4, 64, 32
    x, weight, bias = normal(b, f, n, d), normal(d, d), normal(d)
    axes = [(b, f, n, HEADS, d // HEADS)[axis] for axis in pattern]
    upstream = normal(axes[0] * axes[1], *axes[2:])
    _, (by_x, by_weight, by_bias) = with_gradient(function, upstream, x, weight, bias)
    back = upstream.astype(np.float64).reshape(axes).transpose(np.argsort(pattern))
    back = 2 * back.reshape(-1, d)
    assert error(by_bias, back.sum(0)) <= GRADIENT
    assert error(by_weight, back.T @ x.reshape(-1, d)) <= GRADIENT
    assert error(by_x, (back @ weight).reshape(x.shape)) <= GRADIENT


def transposed_twice_used(y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = (y * 2.0).transpose(0, 2, 1).reshape(-1, y.shape[1])
    return ops.matmul(rows, weight), ops.sum(rows, 0)


def test_sum_and_product_of_transposed_rows(compiled: Callable, error: Callable) -> None:
    y, weight = normal(8, 32, 64), normal(32, 32)
    product, total = compiled(transposed_twice_used, y, weight)
    rows = 2 * y.astype(np.float64).transpose(0, 2, 1).reshape(-1, 32)
    assert error(product, rows @ weight) <= VALUE
    assert error(total, rows.sum(0)) <= VALUE


def exponential_between_others(x: Tensor, y: Tensor) -> Tensor:
    return kernels.exp(x * 0.5) * y + 1.0


def test_fused_exponential(compiled: Callable) -> None:
    x = np.linspace(-40, 40, 4096, dtype=np.float32)
    y = np.float32(1) + RNG.random(4096, np.float32)
    expected = np.exp(x.astype(np.float64) * 0.5) * y + 1
    found = compiled(exponential_between_others, x, y)
    np.testing.assert_allclose(found, expected, rtol=5e-6)


def normalised(x: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift


def attention64(p: dict[str, np.ndarray], x: np.ndarray, pattern: str) -> np.ndarray:
    """`pattern` is a frame's attention or a token's: the letters of b f n h in einsum."""
    parts = (x @ p[f"{name}.weight"].T + p[f"{name}.bias"] for name in ("query", "key", "value"))
    q, k, v = (part.reshape(*x.shape[:3], HEADS, -1) for part in parts)
    scores = np.einsum(pattern, q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    left, right = pattern.split("->")
    mixed = np.einsum(f"{right},{left.split(',')[1]}->{left.split(',')[0]}", weights, v)
    return mixed.reshape(x.shape) @ p["output.weight"].T + p["output.bias"]


def block64(p: dict[str, np.ndarray], x: np.ndarray, c: np.ndarray, pattern: str) -> np.ndarray:
    def part(name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(name): value for key, value in p.items() if key.startswith(name)}

    m, mlp = part("modulation.linear."), part("mlp.")
    modulation = c / (1 + np.exp(-c)) @ m["weight"].T + m["bias"]
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(modulation, 6, -1)
    x = x + gate_a * attention64(part("attention."), normalised(x, shift_a, scale_a), pattern)
    h = normalised(x, shift_m, scale_m) @ mlp["fc1.weight"].T + mlp["fc1.bias"]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return x + gate_m * (h @ mlp["fc2.weight"].T + mlp["fc2.bias"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("over", "pattern"),
    [("spatial", "bfihk,bfjhk->bfhij"), ("temporal", "binhk,bjnhk->bnhij")],
)
def test_gradients_of_a_block(
    parameter_gradients: Callable, filled: Callable, error: Callable, over: str, pattern: str
) -> None:
    """Every parameter's gradient along three random directions, against float64 differences."""
    width = 32
    config = LatteConfig(hidden_size=width, num_heads=HEADS, depth=2, num_frames=4, mlp_ratio=2.0)
    block = Block(config, over, ms.float32)
    values = {name: value.astype(np.float64) for name, value in filled(block).items()}
    x, c, upstream = normal(2, 4, 16, width), normal(2, 1, 1, width), normal(2, 4, 16, width)
    gradients = parameter_gradients(block, upstream, x, c)
    assert gradients.keys() == values.keys()

    def objective(values: dict[str, np.ndarray]) -> float:
        return float((upstream * block64(values, x.astype(np.float64), c, pattern)).sum())

    for name, gradient in gradients.items():
        if name == "attention.key.bias":
            assert not gradient.any()
            continue
        for _ in range(3):
            direction = RNG.standard_normal(gradient.shape)
            direction /= np.linalg.norm(direction)
            sides = (values | {name: values[name] + s * 1e-5 * direction} for s in (1, -1))
            ahead, behind = map(objective, sides)
            slope = (ahead - behind) / 2e-5
            size = np.linalg.norm(gradient)
            assert abs((gradient * direction).sum() - slope) <= GRADIENT * size, name
