"""What a training recipe may say."""

from pathlib import Path

import pytest

from latte_ms import config
from latte_ms.training.recipe import TrainConfig

SHAPES = Path(__file__).parents[2] / "configs" / "shapes" / "train.yaml"
KL = ["diffusion.loss=kl", "diffusion.variance=fixed_large"]


def recipe(*overrides: str) -> TrainConfig:
    return config.load(TrainConfig, SHAPES, overrides)


def test_the_variance_is_learned_or_chosen() -> None:
    assert recipe("network.learn_sigma=true").variance == "learned_range"
    assert recipe("diffusion.loss=kl").variance == "fixed_small"
    assert recipe(*KL).variance == "fixed_large"


def test_runs_of_another_network_or_process_differ() -> None:
    plain = recipe().identity
    assert plain == recipe("diffusion.variance=fixed_small", "head_multiple=16").identity
    assert "variance" not in plain["diffusion"]
    for override in ("network.depth=4", "diffusion.prediction=epsilon", "diffusion.loss=kl"):
        assert recipe(override).identity != plain
    assert recipe(*KL).identity != recipe("diffusion.loss=kl").identity


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["initial_entry=best"], r"`initial_entry` must be ema or model, got 'best'"),
        (["head_multiple=0"], r"`head_multiple` must be at least 1, got 0"),
        (["vae_frames=0"], r"`vae_frames` must be at least 1, got 0"),
        (["vae_precision=bfloat16"], r"`vae_precision` bfloat16 has no CPU kernels"),
        (["vae_precision=fp16"], r"`vae_precision` must be one of .* got 'fp16'"),
        (["diffusion.variance=beta"], r"diffusion.variance.*beta"),
        (["diffusion.variance=fixed_large"], r"`diffusion.variance` .* `diffusion.loss` is mse"),
        ([*KL, "network.learn_sigma=true"], r"fixed_large needs `network.learn_sigma` false"),
        (["optimizer.learning_rate=nan"], r"`optimizer.learning_rate` must be a finite number"),
    ],
)
def test_a_mistake_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(*overrides)
