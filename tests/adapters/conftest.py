"""Tiny networks, and LoRA weights for them with random matrices."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from latte_ms.adapters import LoraWeights, LowRank
from latte_ms.adapters.weights import modules
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.weights.network import contents
from latte_ms.weights.tensors import Shape


@pytest.fixture(scope="session")
def t2v_config() -> LatteT2VConfig:
    return LatteT2VConfig(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=6,
        num_layers=1,
        cross_attention_dim=16,
        sample_size=4,
        caption_channels=6,
        video_length=3,
    )


@pytest.fixture(scope="session")
def latte_config() -> LatteConfig:
    return LatteConfig(
        input_size=4,
        in_channels=3,
        hidden_size=16,
        depth=2,
        num_heads=2,
        mlp_ratio=2.0,
        num_frames=3,
        conditioning="class",
        num_classes=5,
    )


@pytest.fixture(scope="module")
def t2v(t2v_config: LatteT2VConfig) -> LatteT2V:
    network = LatteT2V(t2v_config)
    network.set_train(False)
    return network


@pytest.fixture(scope="session")
def t2v_shapes(t2v_config: LatteT2VConfig) -> dict[str, Shape]:
    """The shapes of the weights of a `LatteT2V` by module."""
    return modules(contents(LatteT2V(t2v_config, seed=None)).specs)


@pytest.fixture(scope="session")
def latte_shapes(latte_config: LatteConfig) -> dict[str, Shape]:
    return modules(contents(Latte(latte_config, seed=None)).specs)


@pytest.fixture(scope="session")
def random_lora() -> Callable[..., LoraWeights]:
    """`random_lora(shapes, *ends, rank=2, alpha=3, seed=0)`: for modules with one of the ends."""

    def make(
        shapes: Mapping[str, Shape], *ends: str, rank: int = 2, alpha: float = 3.0, seed: int = 0
    ) -> LoraWeights:
        rng, changes = np.random.default_rng(seed), {}
        for module, (out, *inner) in shapes.items():
            if module.endswith(ends):
                a = rng.standard_normal((rank, *inner), np.float32)
                b = rng.standard_normal((out, rank, *[1] * (len(inner) - 1)), np.float32)
                changes[module] = LowRank(a * np.float32(0.3), b * np.float32(0.3), alpha)
        assert changes
        return LoraWeights(changes)

    return make
