"""The paper's variants and design choices against plain PyTorch, and what they have in common."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import weights
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.cost import cost_of
from latte_ms.transformer.latte import Latte
from tests.transformer import torch_variants

Choice = tuple[int, str, str, str]
ALL: list[Choice] = list(
    itertools.product(
        (1, 2, 3, 4),
        ("uniform", "compression"),
        ("adaln", "tokens"),
        ("absolute", "rotary_temporal", "rotary"),
    )
)
# Each choice with each variant, in pairs.
SOME: list[Choice] = [
    (1, "compression", "adaln", "rotary"),
    (1, "uniform", "tokens", "rotary_temporal"),
    (2, "uniform", "adaln", "absolute"),
    (2, "compression", "tokens", "rotary"),
    (3, "uniform", "adaln", "absolute"),
    (3, "compression", "tokens", "rotary"),
    (4, "uniform", "adaln", "absolute"),
    (4, "compression", "tokens", "rotary"),
]
OTHERS = [pytest.param(one, marks=pytest.mark.extended) for one in ALL if one not in SOME]


def config_of(choice: Choice, **fields: object) -> LatteConfig:
    variant, patches, injection, positions = choice
    return LatteConfig(
        **{
            "input_size": 8,
            "hidden_size": 24,
            "depth": 4 if variant == 2 else 2,
            "num_heads": 2,
            "num_frames": 4,
            "num_classes": 5,
            "conditioning": "class",
            "variant": variant,
            "patch_embedding": patches,
            "temporal_patch_size": 2 if patches == "compression" else 1,
            "injection": injection,
            "positions": positions,
            **fields,
        }  # type: ignore[arg-type]
    )


def network_of(config: LatteConfig) -> Latte:
    """With random values everywhere but in the tables: no gate is zero."""
    network, rng = Latte(config), np.random.default_rng(0)
    network.set_train(False)
    for name, parameter in network.parameters_and_names():
        if not name.endswith("_embed"):
            value = 0.2 * rng.standard_normal(parameter.shape)
            parameter.set_data(Tensor(value.astype(np.float32)))
    return network


def inputs_of(config: LatteConfig, images: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    size = config.input_size
    inputs = {
        "x": rng.standard_normal((2, config.num_frames + images, 4, size, size), np.float32),
        "t": np.array([7, 803], np.int32),
    }
    if config.conditioning == "class":
        inputs["y"] = np.array([1, 5], np.int32)
        if images:
            inputs["y_image"] = rng.integers(0, 5, (2, images)).astype(np.int32)
    return inputs


def compare(
    config: LatteConfig, error: Callable[[np.ndarray, np.ndarray], float], images: int = 0
) -> None:
    network, inputs = network_of(config), inputs_of(config, images)
    arrays = {name: p.asnumpy() for name, p in network.parameters_and_names()}
    expected = torch_variants.forward(arrays, config, **inputs)
    found = network(**{name: Tensor(array) for name, array in inputs.items()}).asnumpy()
    assert error(found, expected) <= 1e-5


@pytest.mark.parametrize("choice", [*SOME, *OTHERS], ids=str)
def test_every_choice_is_that_of_torch(
    choice: Choice, error: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    compare(config_of(choice), error)


@pytest.mark.parametrize(
    "choice", [(3, "uniform", "adaln", "absolute"), (4, "uniform", "tokens", "rotary")], ids=str
)
def test_joint_images_have_no_temporal_attention(
    choice: Choice, error: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    compare(config_of(choice, num_joint_images=2), error, images=2)


def test_without_a_condition_only_the_timestep_is_a_token(
    error: Callable[[np.ndarray, np.ndarray], float],
) -> None:
    config = config_of((1, "uniform", "tokens", "absolute"), conditioning="none")
    assert config.condition_tokens == 1
    compare(config, error)


def test_the_plans() -> None:
    def plan(variant: int, depth: int) -> str:
        return "".join(kind[:2] for kind in LatteConfig(variant=variant, depth=depth).plan)

    assert plan(1, 4) == "sptespte"
    assert plan(2, 4) == "spsptete"
    assert plan(3, 3) == "sesese"
    assert plan(4, 3) == "papapa"


@pytest.mark.parametrize("choice", ALL, ids=str)
def test_every_choice_is_saved_and_loaded(choice: Choice, tmp_path: Path) -> None:
    config = config_of(choice)
    network = network_of(config)
    path = tmp_path / "weights.safetensors"
    weights.save(network, path)
    other = Latte(config, seed=3)
    weights.load(other, path)
    for (name, ours), theirs in zip(
        other.parameters_and_names(), network.get_parameters(), strict=True
    ):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy(), err_msg=name)
    stored = set(weights.read(path))
    assert "blocks.0.attn.qkv.weight" in stored
    assert ("temp_embed" in stored) == (choice[3] == "absolute")
    assert ("pos_embed" in stored) == (choice[3] != "rotary")
    assert any(".temporal_attn.qkv." in name for name in stored) == (choice[0] == 3)


def test_the_default_is_recorded_as_before() -> None:
    """A checkpoint of an earlier version has no design choices, and goes on."""
    names = {field.name for field in dataclasses.fields(LatteConfig)}
    choices = {"variant", "patch_embedding", "temporal_patch_size", "injection", "positions"}
    assert set(LatteConfig().identity) == names - choices
    assert LatteConfig(variant=4).identity["variant"] == 4
    assert LatteConfig(**LatteConfig(variant=2, positions="rotary").identity) == LatteConfig(
        variant=2, positions="rotary"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": 5}, "`variant` must be one of"),
        ({"variant": 2, "depth": 5}, "`depth` must be even for `variant` 2 .* got 5"),
        ({"depth": 3}, "`depth` must be even for `variant` 1 .* got 3"),
        ({"variant": 3, "depth": 0}, "`depth` must be at least 1, got 0"),
        ({"variant": 4, "num_heads": 9}, "`num_heads` must be even for `variant` 4"),
        ({"patch_embedding": "compression"}, r"`temporal_patch_size` \(=1\) must be above 1"),
        ({"temporal_patch_size": 2}, "must be above 1 for, and only for, .*is uniform"),
        (
            {"patch_embedding": "compression", "temporal_patch_size": 3},
            r"`num_frames` \(=16\) must be divisible by `temporal_patch_size` \(=3\)",
        ),
        (
            {"patch_embedding": "compression", "temporal_patch_size": 2, "num_joint_images": 8},
            r"`num_joint_images` \(=8\) must be 0 for `patch_embedding` compression",
        ),
        (
            {"hidden_size": 48, "num_heads": 8, "positions": "rotary"},
            r"over `num_heads` \(=8\) must be divisible by 4 for `positions` rotary",
        ),
        ({"injection": "adaln-zero"}, "`injection` must be one of"),
        ({"positions": "learned"}, "`positions` must be one of"),
    ],
)
def test_combinations_that_make_no_sense_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatteConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", ALL, ids=str)
@pytest.mark.parametrize("conditioning", ["none", "class", "text"])
def test_parameters_are_counted(choice: Choice, conditioning: str) -> None:
    config = config_of(
        choice, conditioning=conditioning, text_tokens=3, text_width=5, mlp_ratio=3.0
    )
    parameters = Latte(config, seed=None).parameters_and_names()
    found = sum(p.size for name, p in parameters if not name.endswith("_embed"))
    assert cost_of(config).parameters == found


# Latte-S/2 to XL/2 as the paper has them; variant 3 has 23 blocks at the size of the others.
@pytest.mark.parametrize(
    ("name", "variant", "depth", "millions"),
    [
        ("Latte-S/2", 1, 12, 32.48),
        ("Latte-B/2", 1, 12, 129.54),
        ("Latte-L/2", 1, 24, 456.81),
        ("Latte-XL/2", 1, 28, 673.68),
        ("Latte-XL/2", 2, 28, 673.68),
        ("Latte-XL/2", 3, 23, 676.33),
        ("Latte-XL/2", 4, 28, 676.44),
    ],
)
def test_parameters_of_the_papers_sizes(
    name: str, variant: int, depth: int, millions: float
) -> None:
    config = LatteConfig.from_name(name, variant=variant, depth=depth)
    assert cost_of(config).parameters / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("variant", "depth", "giga"), [(1, 28, 5572.69), (2, 28, 5572.69), (3, 23, 6153.15)]
)
def test_operations_of_the_papers_variants(variant: int, depth: int, giga: float) -> None:
    config = LatteConfig.from_name("Latte-XL/2", variant=variant, depth=depth)
    assert cost_of(config).paper / 1e9 == pytest.approx(giga, rel=0.01)
