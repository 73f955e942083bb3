"""Tiny networks of every kind, with random weights, compiled once per file."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig


def tiny_config(**fields: Any) -> LatteConfig:
    small: dict[str, Any] = {
        "input_size": 4,
        "in_channels": 3,
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "num_frames": 3,
        "num_classes": 5,
        "text_tokens": 2,
        "text_width": 6,
    }
    return LatteConfig(**{**small, **fields})


def tiny_t2v_config(**fields: Any) -> LatteT2VConfig:
    small: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 3,
        "out_channels": 6,
        "num_layers": 1,
        "cross_attention_dim": 16,
        "sample_size": 4,
        "caption_channels": 6,
        "video_length": 3,
    }
    return LatteT2VConfig(**{**small, **fields})


def randomise(network: Latte, *names: str) -> None:
    """Random values for the parameters that contain one of `names`; for all without names.

    The tables of positions stay as they are.
    """
    rng = np.random.default_rng(0)
    for name, parameter in network.parameters_and_names():
        chosen = not names or any(part in name for part in names)
        if chosen and not name.endswith("_embed"):
            scale = 1.0 / np.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.5
            value = rng.standard_normal(parameter.shape) * scale
            parameter.set_data(Tensor(value.astype(np.float32)))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LatteConfig]:
    """`tiny(**fields)`: 3 frames of 2 x 2 tokens of width 16, 2 blocks."""
    return tiny_config


@pytest.fixture(scope="module")
def latte() -> Callable[..., Latte]:
    """`latte(randomised=(), dtype=float32, **fields)`: a tiny network, in evaluation.

    `randomised` names the parameters that get random values instead of their initial ones; without
    names all get them. Equal arguments give the same object, which compiles once.
    """
    made: dict[Any, Latte] = {}

    def make(randomised: tuple[str, ...] = (), dtype: ms.Type = ms.float32, **fields: Any) -> Latte:
        key = (randomised, str(dtype), tuple(sorted(fields.items())))
        if key not in made:
            made[key] = Latte(tiny_config(**fields), dtype)
            randomise(made[key], *randomised)
            made[key].set_train(False)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_t2v() -> Callable[..., LatteT2VConfig]:
    """`tiny_t2v(**fields)`: 3 frames of 2 x 2 tokens of width 16, 1 layer."""
    return tiny_t2v_config


@pytest.fixture(scope="module")
def t2v() -> Callable[..., LatteT2V]:
    """`t2v(dtype=float32, temporal_interpolation=False, **fields)`: random weights, evaluation.

    Equal arguments give the same object, which compiles once.
    """
    made: dict[Any, LatteT2V] = {}

    def make(
        dtype: ms.Type = ms.float32, temporal_interpolation: bool = False, **fields: Any
    ) -> LatteT2V:
        key = (str(dtype), temporal_interpolation, tuple(sorted(fields.items())))
        if key not in made:
            config = tiny_t2v_config(**fields)
            made[key] = LatteT2V(config, dtype, temporal_interpolation=temporal_interpolation)
            made[key].set_train(False)
        return made[key]

    return make
