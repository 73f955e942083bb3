"""Initial weights, parameter by parameter, by the reference's scheme."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from latte_ms.layers import positions
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.initialisation import initialise_latte
from latte_ms.transformer.latte import Latte

WIDTH, HIDDEN = 64, 256
Values = dict[str, np.ndarray]


def config(conditioning: str) -> LatteConfig:
    return LatteConfig(
        input_size=8,
        hidden_size=WIDTH,
        depth=2,
        num_heads=4,
        num_frames=4,
        num_classes=99,
        conditioning=conditioning,
        text_tokens=4,
        text_width=32,
    )


def values_of(network: nn.Cell) -> Values:
    return {name: p.asnumpy().astype(np.float64) for name, p in network.parameters_and_names()}


@pytest.fixture(scope="module")
def values() -> Values:
    """All initial weights; those of the text projection come from a network of its own."""
    text = values_of(Latte(config("text")))
    text = {name: value for name, value in text.items() if name.startswith("text_projection")}
    return values_of(Latte(config("class"))) | text


BLOCKS = ("blocks.0.", "blocks.1.")
# The bound of a uniform distribution, sqrt(6 / (fan in + fan out)).
XAVIER = {
    "x_embedder.proj.weight": WIDTH + 16,
    "text_projection.weight": WIDTH + 4 * 32,
    **{
        block + name: fans
        for block in BLOCKS
        for name, fans in {
            "attention.query.weight": WIDTH + 3 * WIDTH,  # one matrix in the reference
            "attention.key.weight": WIDTH + 3 * WIDTH,
            "attention.value.weight": WIDTH + 3 * WIDTH,
            "attention.output.weight": 2 * WIDTH,
            "mlp.fc1.weight": WIDTH + HIDDEN,
            "mlp.fc2.weight": HIDDEN + WIDTH,
        }.items()
    },
}
NORMAL = ("y_embedder.weight", "t_embedder.linear_1.weight", "t_embedder.linear_2.weight")
ZERO = (
    "final_layer.linear.weight",
    "final_layer.modulation.linear.weight",
    *(block + "modulation.linear.weight" for block in BLOCKS),
)


@pytest.mark.parametrize("name", XAVIER)
def test_uniform_weights(values: Values, name: str) -> None:
    weight, bound = values[name], np.sqrt(6.0 / XAVIER[name])
    assert np.abs(weight).max() <= bound * (1 + 1e-6)
    assert weight.max() >= 0.98 * bound
    assert weight.min() <= -0.98 * bound
    deviation = bound / np.sqrt(3)
    assert abs(weight.mean()) <= 4 * deviation / np.sqrt(weight.size)
    assert abs(weight.std() / deviation - 1) <= 4 / np.sqrt(2 * weight.size)


@pytest.mark.parametrize("name", NORMAL)
def test_normal_weights(values: Values, name: str) -> None:
    weight = values[name]
    assert abs(weight.mean()) <= 4 * 0.02 / np.sqrt(weight.size)
    assert abs(weight.std() / 0.02 - 1) <= 4 / np.sqrt(2 * weight.size)
    assert np.abs(weight).max() > 3 * 0.02, "a normal distribution has tails"


def test_zeros(values: Values) -> None:
    for name in ZERO:
        assert not values[name].any(), name
    for name, value in values.items():
        if name.endswith(".bias"):
            assert not value.any(), name


def test_no_parameter_is_left_out(values: Values) -> None:
    biases = {name for name in values if name.endswith(".bias")}
    assert values.keys() == {*XAVIER, *NORMAL, *ZERO, *biases, "pos_embed", "temp_embed"}


def test_positions_are_kept(values: Values) -> None:
    spatial = positions.sincos_2d(WIDTH, np.arange(4), np.arange(4))
    temporal = positions.sincos_1d(WIDTH, np.arange(4))
    np.testing.assert_array_equal(values["pos_embed"], spatial[None].astype(np.float32))
    np.testing.assert_array_equal(values["temp_embed"], temporal[None].astype(np.float32))


def test_matrices_are_drawn_one_by_one(values: Values) -> None:
    drawn = [values[name] for name in XAVIER if values[name].shape == (WIDTH, WIDTH)]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) <= 0.1


def test_the_seed_decides() -> None:
    one, same, other = (values_of(Latte(config("class"), seed=seed)) for seed in (3, 3, 4))
    name = "blocks.1.mlp.fc1.weight"
    np.testing.assert_array_equal(one[name], same[name])
    assert (one[name] != other[name]).any()


def test_without_a_seed_everything_waits_for_a_file_at_zero() -> None:
    values = values_of(Latte(config("class"), seed=None))
    tables = {"pos_embed", "temp_embed"}
    assert not any(value.any() for name, value in values.items() if name not in tables)


def test_a_fresh_network_predicts_exactly_zero(
    tiny: Callable[..., LatteConfig],
) -> None:
    network = Latte(tiny())
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4, 4)).astype(np.float32)
    output = network(Tensor(x), Tensor([0, 999], ms.int32))
    assert output.shape == (2, 3, 6, 4, 4)
    assert not output.asnumpy().any()


class Unknown(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.gain = Parameter(Tensor([1.0], ms.float32))


def test_a_parameter_without_a_rule_is_named() -> None:
    with pytest.raises(ValueError, match="No rule initialises the parameter 'gain'"):
        initialise_latte(Unknown(), np.random.default_rng(0))
