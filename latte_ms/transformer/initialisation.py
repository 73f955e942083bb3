"""Initial weights of Latte, distribution by distribution as the reference's."""

import re

import numpy as np
from mindspore import Parameter, Tensor, nn

# name pattern -> distribution; the first that matches decides. Biases are zero.
SCHEME = (
    (r"(pos|temp)_embed$", "keep"),
    (r"\.bias$", "zero"),
    (r"modulation\.linear\.weight$", "zero"),  # adaLN-Zero: every block starts as the identity
    (r"final_layer\.linear\.weight$", "zero"),
    (r"y_embedder\.weight$", "normal"),
    (r"t_embedder\.linear_[12]\.weight$", "normal"),
    (r"attention\.(query|key|value)\.weight$", "xavier_fused"),
    (r"\.weight$", "xavier"),
)


def initialise(network: nn.Cell, rng: np.random.Generator) -> None:
    """Fill every parameter of `network` by `SCHEME`, in the order of its parameters."""
    for name, parameter in network.parameters_and_names():
        kind = next((kind for pattern, kind in SCHEME if re.search(pattern, name)), None)
        if kind is None:
            raise ValueError(f"No rule initialises the parameter {name!r}.")
        if kind != "keep":
            parameter.set_data(Tensor(_draw(kind, parameter, rng)))


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
