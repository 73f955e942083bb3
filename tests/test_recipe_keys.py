"""No key of a recipe is only checked: what a user writes is read by the code that acts on it."""

import ast
import dataclasses
import typing
from functools import cache
from pathlib import Path

import pytest

from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.text_recipe import TextToVideoRecipe
from latte_ms.metrics.recipe import MetricsRecipe
from latte_ms.training.autoencoder_recipe import AutoencoderTrainConfig
from latte_ms.training.recipe import LatteTrainConfig, T2VTrainConfig
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

ROOT = Path(__file__).parents[1]
RECIPES = (
    *(LatteTrainConfig, T2VTrainConfig, AutoencoderTrainConfig),
    *(LatteRecipe, TextToVideoRecipe, MetricsRecipe),
)

# Read under a name that the code puts together: in a mapping, or with `getattr`.
BY_NAME = {
    "preset": "gives the sizes of the network while the recipe is parsed",
    "guidance_rescale": "`guidance_inputs` takes every field of `GuidanceOptions`",
    "force_upcast": "is written for diffusers by `to_json`",
    "num_embeds_ada_norm": "must be the number of training timesteps",
}
# Of diffusers' configuration: the one value that Latte has; another one is refused.
ONLY_ONE = {
    "activation_fn": "gelu",
    "cross_attention_dim": 7,
    "norm_elementwise_affine": True,
    "norm_type": "layer_norm",
}


def keys_of(cls: type) -> set[tuple[str, str]]:
    """(class, key) of a recipe and all its sections."""
    found = set()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        parts = [hints[field.name], *typing.get_args(hints[field.name])]
        sections = [part for part in parts if dataclasses.is_dataclass(part)]
        for section in sections:
            found |= keys_of(section)
        if not sections:
            found.add((cls.__name__, field.name))
    return found


@cache
def names_that_are_read() -> frozenset[str]:
    """Attributes read anywhere but in the checks of a configuration."""
    found = set()
    for folder in ("latte_ms", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
                found |= {
                    node.attr
                    for node in ast.walk(function)
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
                }
    return frozenset(found)


def _functions(tree: ast.Module) -> list[ast.AST]:
    """All functions but those that check: `__post_init__`, `_check...`, `check...`."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name != "__post_init__"
        and not node.name.lstrip("_").startswith("check")
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_every_key_is_read(recipe: type) -> None:
    keys = keys_of(recipe)
    assert len(keys) > 15
    known = names_that_are_read() | BY_NAME.keys() | ONLY_ONE.keys()
    assert sorted(key for key in keys if key[1] not in known) == []


def test_the_exceptions_are_some() -> None:
    assert not names_that_are_read() & (BY_NAME.keys() | ONLY_ONE.keys())


@pytest.mark.parametrize(("key", "value"), ONLY_ONE.items())
def test_a_key_with_one_value_refuses_others(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        LatteT2VConfig(**{key: value})
