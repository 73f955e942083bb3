"""Initial weights of both networks, each drawn from the reference's distribution."""

import re

import numpy as np
from mindspore import Parameter, Tensor, nn

from latte_ms.layers.linear import Linear

# For Latte: name pattern -> distribution; the first match decides. Biases are zero.
LATTE_SCHEME = (
    (r"(pos|temp)_embed$", "keep"),
    (r"norm\.(weight|bias)$", "keep"),
    (r"\.bias$", "zero"),
    (r"modulation\.linear\.weight$", "zero"),  # adaLN-Zero: every block starts as the identity
    (r"final_layer\.linear\.weight$", "zero"),
    (r"y_embedder\.weight$", "normal"),
    (r"t_embedder\.linear_[12]\.weight$", "normal"),
    (r"attention\.(query|key|value)\.weight$", "xavier_fused"),
    (r"\.weight$", "xavier"),
)


def initialise_latte(network: nn.Cell, rng: np.random.Generator) -> None:
    """Fill every parameter of a `Latte` by `LATTE_SCHEME`, in the order of its parameters.

    Raises ValueError for a parameter that no pattern matches.
    """
    for name, parameter in network.parameters_and_names():
        kind = next((kind for pattern, kind in LATTE_SCHEME if re.search(pattern, name)), None)
        if kind is None:
            raise ValueError(f"No rule initialises the parameter {name!r}.")
        if kind != "keep":
            parameter.set_data(Tensor(_draw(kind, parameter, rng)))


def initialise_t2v(network: nn.Cell, rng: np.random.Generator) -> None:
    """Fill a `LatteT2V`: linear layers first, then the tables of scales and shifts.

    Weights and biases are uniform within 1 / sqrt(fan in), tables normal with variance 1 / D.
    """
    for _, cell in network.cells_and_names():
        if isinstance(cell, Linear):
            bound = np.float32(cell.weight.shape[1] ** -0.5)
            for parameter in (cell.weight, cell.bias):
                if parameter is not None:
                    value = (rng.random(parameter.shape, np.float32) * 2 - 1) * bound
                    parameter.set_data(Tensor(value))
    for name, parameter in network.parameters_and_names():
        if name.endswith("scale_shift_table"):
            scale = np.float32(parameter.shape[1] ** -0.5)
            value = rng.standard_normal(parameter.shape, np.float32) * scale
            parameter.set_data(Tensor(value))


def _draw(kind: str, parameter: Parameter, rng: np.random.Generator) -> np.ndarray:
    shape = parameter.shape
    if kind == "zero":
        return np.zeros(shape, np.float32)
    if kind == "normal":
        return rng.standard_normal(shape, np.float32) * np.float32(0.02)
    fan_out, fan_in = shape
    if kind == "xavier_fused":  # the reference draws query, key and value as one matrix
        fan_out *= 3
    bound = np.float32(np.sqrt(6.0 / (fan_in + fan_out)))
    return (rng.random(shape, np.float32) * 2 - 1) * bound
