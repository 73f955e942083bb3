"""Every kernel function against numpy in float64: values, and gradients where training needs them.

Convolutions have a file of their own.
"""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from scipy.special import erf

from latte_ms.layers import kernels

# Fixed before looking, relative to the largest reference value.
VALUE, GRADIENT = 1e-6, 1e-5
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def linear64(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x @ weight.T + bias


def normalise(x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def layer_norm(x: Tensor) -> Tensor:
    return kernels.layer_norm(x, None, None, 1e-6)


def layer_norm64(x: np.ndarray) -> np.ndarray:
    return normalise(x, 1e-6)


def affine_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return kernels.layer_norm(x, weight, bias, 1e-5)


def affine_layer_norm64(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return normalise(x, 1e-5) * weight + bias


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return kernels.group_norm(x, 3, weight, bias, 1e-6)


def group_norm64(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = normalise(x.reshape(x.shape[0], 3, -1), 1e-6).reshape(x.shape)
    return y * weight[:, None] + bias[:, None]


def gelu64(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def exact_gelu64(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def silu64(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def softmax64(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mean_of_two_axes(x: Tensor) -> Tensor:
    return kernels.mean(x, (1, 2))


def mean64(x: np.ndarray) -> np.ndarray:
    return x.mean((1, 2))


def pad_two_axes(x: Tensor) -> Tensor:
    return kernels.pad(x, (0, 3, 2, 1))


def pad64(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (2, 1), (0, 3)))


def join_middle(x: Tensor, y: Tensor) -> Tensor:
    return kernels.concat((x, y), 1)


def join64(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.concatenate((x, y), 1)


def matmul_transposed64(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ y.swapaxes(-2, -1)


@pytest.mark.parametrize(
    ("function", "rule", "shapes"),
    [
        (kernels.matmul_transposed, matmul_transposed64, [(2, 3, 4, 5), (2, 3, 6, 5)]),
        (kernels.linear, linear64, [(2, 3, 8), (5, 8), (5,)]),
        (layer_norm, layer_norm64, [(3, 4, 16)]),
        (affine_layer_norm, affine_layer_norm64, [(3, 4, 16), (16,), (16,)]),
        (group_norm, group_norm64, [(2, 6, 10), (6,), (6,)]),
        (kernels.gelu, gelu64, [(4, 16)]),
        (kernels.silu, silu64, [(4, 16)]),
        (kernels.softmax, softmax64, [(3, 4, 10)]),
        (kernels.exp, np.exp, [(4, 16)]),
        (kernels.divide, np.divide, [(4, 16), (1, 16)]),
        (mean_of_two_axes, mean64, [(3, 4, 5, 6)]),
        (kernels.total, np.sum, [(3, 4, 5)]),
        (pad_two_axes, pad64, [(2, 3, 5)]),
        (join_middle, join64, [(2, 3, 5), (2, 1, 5)]),
    ],
)
def test_value_and_gradient(
    with_gradient: Callable,
    numeric_gradient: Callable,
    error: Callable,
    function: Callable,
    rule: Callable,
    shapes: list[tuple[int, ...]],
) -> None:
    arrays = [normal(*shape) for shape in shapes]
    if function is kernels.divide:
        arrays[1] = np.abs(arrays[1]) + np.float32(0.5)
    expected = rule(*(array.astype(np.float64) for array in arrays))
    upstream = RNG.standard_normal(expected.shape).astype(np.float32)
    value, gradients = with_gradient(function, upstream, *arrays)
    assert error(value, expected) <= VALUE
    for found, wanted in zip(gradients, numeric_gradient(rule, upstream, *arrays), strict=True):
        assert error(found, wanted) <= GRADIENT


def turned(x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Heads cut and joined: a product, and elementwise work on a rearranged tensor."""
    x = kernels.transpose(x, (0, 2, 1, 3))
    return kernels.matmul_transposed(x, factor), kernels.transpose(x * 2.0, (0, 2, 1, 3)) + 1.0


@pytest.mark.parametrize("length", [6, 5000])
def test_transposition(with_gradient: Callable, error: Callable, length: int) -> None:
    """Large tensors take another way."""
    x, factor = normal(2, length, 8, 64), normal(2, 8, 4, 64)
    upstream = (normal(2, 8, length, 4), normal(2, length, 8, 64))
    (product, same), (gradient, _) = with_gradient(turned, upstream, x, factor)
    assert error(product, np.einsum("blhk,bhjk->bhlj", x.astype(np.float64), factor)) <= VALUE
    np.testing.assert_array_equal(same, x * 2 + 1)
    expected = np.einsum("bhlj,bhjk->blhk", upstream[0].astype(np.float64), factor)
    assert error(gradient, expected + 2 * upstream[1]) <= GRADIENT


def parts_of_four(x: Tensor) -> tuple[Tensor, ...]:
    return kernels.split(x, 4, 1)


def first_three(x: Tensor) -> tuple[Tensor, Tensor]:
    return kernels.split_first(x, 3, -1)


@pytest.mark.parametrize(
    ("function", "cuts", "axis"), [(parts_of_four, [4, 8], 1), (first_three, [3], 2)]
)
def test_split(with_gradient: Callable, function: Callable, cuts: list[int], axis: int) -> None:
    """Exact: values are moved and nothing is computed. The gradient joins what came back."""
    x, back = normal(2, 10, 6), normal(2, 10, 6)
    parts, (gradient,) = with_gradient(function, tuple(np.split(back, cuts, axis)), x)
    for found, wanted in zip(parts, np.split(x, cuts, axis), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(gradient, back)


def test_gelu_over_its_whole_range(compiled: Callable) -> None:
    x = np.linspace(-8, 8, 200_001, dtype=np.float32)
    assert np.abs(compiled(kernels.gelu, x) - gelu64(x.astype(np.float64))).max() <= 1e-6


def test_exact_gelu_over_its_whole_range(compiled: Callable) -> None:
    x = np.linspace(-8, 8, 200_001, dtype=np.float32)
    expected = exact_gelu64(x.astype(np.float64))
    assert np.abs(compiled(kernels.exact_gelu, x) - expected).max() <= 1e-6


def test_gelu_of_large_values_is_finite(compiled: Callable) -> None:
    x = np.array([-1e4, -100, 0, 100, 1e4], np.float32)
    np.testing.assert_array_equal(compiled(kernels.gelu, x), np.maximum(x, 0))


def test_softmax_of_float16_is_computed_in_float32(compiled: Callable) -> None:
    """Scores of 40000 are float16 numbers whose sum is not."""
    x = (normal(3, 7) * 2 + 40000).astype(np.float16)
    found = compiled(kernels.softmax, x)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, softmax64(x.astype(np.float64)), rtol=0, atol=1e-3)


def test_linear_without_bias(compiled: Callable, error: Callable) -> None:
    x, weight = normal(6, 8), normal(5, 8)
    assert error(compiled(kernels.linear, x, weight), x.astype(np.float64) @ weight.T) <= VALUE


def test_gathers_copy_what_they_are_asked_for(compiled: Callable) -> None:
    table, volume = normal(5, 7), normal(4, 2, 3)
    labels = np.array([[0, 4, 4], [2, 1, 3]], np.int32)
    index = np.array([3, 0, 3], np.int32)
    np.testing.assert_array_equal(compiled(kernels.embedding, labels, table), table[labels])
    np.testing.assert_array_equal(compiled(kernels.gather_columns, table, index), table[:, index])
    np.testing.assert_array_equal(compiled(kernels.gather_rows, volume, index), volume[index])


def rows_of_labels(table: Tensor, labels: Tensor) -> Tensor:
    return kernels.embedding(labels.astype(ms.int32), table)


def test_gradient_of_an_embedding_sums_over_its_uses(
    with_gradient: Callable, error: Callable
) -> None:
    table, upstream = normal(5, 6), normal(4, 6)
    labels = np.array([2, 0, 2, 4], np.float32)
    _, (gradient, _) = with_gradient(rows_of_labels, upstream, table, labels)
    expected = np.zeros((5, 6))
    np.add.at(expected, labels.astype(int), upstream)
    assert error(gradient, expected) <= VALUE


def clamp_both(x: Tensor) -> Tensor:
    return kernels.clamp(x, -0.5, 0.25)


def clamp_below(x: Tensor) -> Tensor:
    return kernels.clamp(x, 0.0, None)


def clamp_above(x: Tensor) -> Tensor:
    return kernels.clamp(x, None, 0.0)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [(clamp_both, -0.5, 0.25), (clamp_below, 0.0, None), (clamp_above, None, 0.0)],
)
def test_clamp(
    compiled: Callable, function: Callable, low: float | None, high: float | None
) -> None:
    x = normal(50)
    np.testing.assert_array_equal(compiled(function, x), np.clip(x, low, high))


def test_where_broadcasts_its_condition(compiled: Callable) -> None:
    x, y = normal(3, 2, 4), normal(3, 2, 4)
    condition = np.array([True, False, True]).reshape(3, 1, 1)
    np.testing.assert_array_equal(
        compiled(kernels.where, condition, x, y), np.where(condition, x, y)
    )


class Counter(nn.Cell):
    """Adds its input to a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Parameter(Tensor([1.0, 2.0], ms.float32), requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        kernels.assign(self.count, self.count + x)
        return x


def test_assign_changes_the_parameter() -> None:
    counter = Counter()
    for _ in range(2):
        counter(Tensor([10.0, 20.0], ms.float32))
    np.testing.assert_array_equal(counter.count.asnumpy(), [21.0, 42.0])


def test_flash_attention_is_asked_for_on_an_ascend_only() -> None:
    assert kernels.has_flash_attention() == (ms.get_context("device_target") == "Ascend")
