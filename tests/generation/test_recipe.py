"""What a sampling recipe may say, and the labels and seeds that follow from it."""

from typing import Any

import pytest

from latte_ms import config
from latte_ms.generation.class_to_video import SamplerConfig
from latte_ms.generation.recipe import SampleConfig
from latte_ms.runtime import RuntimeConfig
from latte_ms.transformer.configuration import LatteConfig

CLASSES = LatteConfig(num_classes=8, conditioning="class")


def recipe(**fields: Any) -> SampleConfig:
    defaults = {"weights": "w", "vae": "v", "output": "o", "network": CLASSES}
    return SampleConfig(**(defaults | fields))


def test_one_video_per_class_that_is_named() -> None:
    cfg = recipe(classes=[3, 1, 3], seed=10)
    assert (cfg.count, cfg.labels, cfg.seeds) == (3, [3, 1, 3], [10, 11, 12])


def test_classes_go_round_until_there_are_enough_videos() -> None:
    cfg = recipe(classes=[3, 1], num_videos=5)
    assert cfg.labels == [3, 1, 3, 1, 3]
    assert len(set(cfg.seeds)) == 5
    assert recipe(classes=[3, 1], num_videos=2).labels == [3, 1]


def test_without_a_number_a_batch_is_drawn() -> None:
    cfg = recipe(batch_size=3)
    assert (cfg.count, cfg.labels) == (3, recipe(num_videos=3).labels)


def test_labels_that_are_not_named_are_drawn_from_each_seed() -> None:
    many = recipe(num_videos=400)
    assert many.labels is not None
    counts = [many.labels.count(label) for label in range(8)]
    assert min(counts) > 25
    assert max(counts) < 80
    later = recipe(num_videos=10, seed=100)
    assert later.labels == many.labels[100:110], "a label belongs to its seed, not to its place"


def test_without_classes_there_are_no_labels() -> None:
    cfg = recipe(network=LatteConfig(), num_videos=3)
    assert (cfg.labels, cfg.seeds) == (None, [0, 1, 2])


def test_a_preset_sets_the_sizes_that_are_not_given() -> None:
    given = ["weights=w", "vae=v", "output=o", "preset=Latte-S/2", "network.num_frames=8"]
    cfg = config.load(SampleConfig, None, given)
    assert (cfg.network.hidden_size, cfg.network.depth, cfg.network.num_frames) == (384, 12, 8)
    cfg = config.load(SampleConfig, None, [*given, "network.depth=28"])
    assert (cfg.network.hidden_size, cfg.network.depth) == (384, 28)


def test_an_ascend_has_bfloat16() -> None:
    cfg = recipe(vae_precision="bfloat16", runtime=RuntimeConfig(device="Ascend"))
    assert cfg.vae_precision == "bfloat16"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": [1, 2, 3], "num_videos": 2}, r"`num_videos` \(=2\) .* `classes` \(=3\)"),
        ({"classes": [8]}, r"`classes` must be in \[0, 8\), got 8"),
        ({"classes": [-1]}, r"`classes` must be in \[0, 8\), got -1"),
        ({"classes": [1], "network": LatteConfig()}, r"`classes` .* needs .*class"),
        ({"classes": [1], "entry": "best"}, "`entry` must be ema or model, got 'best'"),
        ({"classes": [1], "formats": ["avi"]}, r"`formats` must be some of .*avi"),
        ({"classes": [1], "fps": 0.0}, "`fps` must be above 0 .*got 0.0"),
        ({"classes": [1], "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"classes": [1], "vae_frames": 0}, "`vae_frames` must be at least 1, got 0"),
        ({"num_videos": -1}, "`num_videos` and `seed` must not be negative"),
        ({"classes": [1], "seed": -1}, "`num_videos` and `seed` must not be negative"),
        ({"head_multiple": 0}, "`head_multiple` must be at least 1, got 0"),
        ({"fps": float("inf")}, "`fps` must be above 0 and finite, got inf"),
        ({"vae_precision": "fp16"}, r"`vae_precision` must be one of .*float16.* got 'fp16'"),
        ({"vae_precision": "bfloat16"}, r"`vae_precision` bfloat16 has no CPU kernels"),
        (
            {"sampler": SamplerConfig(guidance=2.0), "network": LatteConfig()},
            r"`sampler.guidance` \(=2.0\) needs a class-conditional network",
        ),
        (
            {"sampler": SamplerConfig(variance="fixed_large")},
            r"`sampler.variance` fixed_large needs `network.learn_sigma` false",
        ),
    ],
)
def test_a_mistake_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**fields)
