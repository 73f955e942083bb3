"""The twelve sizes, and what a configuration refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from latte_ms.transformer.configuration import PRESETS, LatteConfig, with_preset
from latte_ms.transformer.latte import Latte

# Parameters of the reference's networks for 16 frames of 256 x 256 pixels, no conditioning; the
# position tables are among them.
PARAMETERS = {
    "Latte-XL/2": 673_994_912,
    "Latte-XL/4": 673_939_712,
    "Latte-XL/8": 674_548_352,
    "Latte-L/2": 457_094_176,
    "Latte-L/4": 457_045_120,
    "Latte-L/8": 457_586_176,
    "Latte-B/2": 129_755_936,
    "Latte-B/4": 129_719_168,
    "Latte-B/8": 130_125_056,
    "Latte-S/2": 32_585_120,
    "Latte-S/4": 32_566_784,
    "Latte-S/8": 32_769_920,
}


def count(network: Latte) -> int:
    return sum(parameter.size for parameter in network.get_parameters())


def count_at_full_depth(name: str, **fields: Any) -> int:
    """Blocks are alike: two of them are built, and counted as often as the preset has them."""
    network = Latte(LatteConfig.from_name(name, **{**fields, "depth": 2}), seed=None)
    blocks = [sum(p.size for p in block.get_parameters()) for block in network.blocks]
    assert blocks[0] == blocks[1]
    return count(network) + (PRESETS[name]["depth"] - 2) * blocks[0]


def test_there_are_twelve() -> None:
    assert PRESETS.keys() == PARAMETERS.keys()
    xl = LatteConfig.from_name("Latte-XL/2")
    assert xl == LatteConfig(), "the defaults are Latte-XL/2"
    s = LatteConfig.from_name("Latte-S/8", num_frames=8)
    sizes = (s.depth, s.hidden_size, s.num_heads, s.patch_size, s.num_frames)
    assert sizes == (12, 384, 6, 8, 8)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_a_preset(name: str) -> None:
    assert count_at_full_depth(name) == PARAMETERS[name]


def test_parameters_of_a_whole_network() -> None:
    assert count(Latte(LatteConfig.from_name("Latte-S/2"), seed=None)) == PARAMETERS["Latte-S/2"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"conditioning": "class", "num_classes": 101}, 674_112_416),
        ({"conditioning": "text"}, 742_120_736),
    ],
)
def test_parameters_of_conditional_networks(fields: dict[str, Any], expected: int) -> None:
    assert count_at_full_depth("Latte-XL/2", **fields) == expected


def test_the_position_tables_are_not_trained() -> None:
    network = Latte(LatteConfig.from_name("Latte-XL/2", depth=2), seed=None)
    frozen = {name: p.size for name, p in network.parameters_and_names() if not p.requires_grad}
    assert frozen == {"pos_embed": 256 * 1152, "temp_embed": 16 * 1152}
    assert PARAMETERS["Latte-XL/2"] - sum(frozen.values()) == 673_681_568


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of Latte-XL/2, .*got 'Latte-XXL/2'"):
        LatteConfig.from_name("Latte-XXL/2")
    for name in ("XL/2", 2, ["Latte-XL/2"]):
        with pytest.raises(ValueError, match=r"`preset` must be one of .*got .*2"):
            with_preset({"preset": name})


def test_a_preset_fills_in_the_sizes_that_are_left_out() -> None:
    network = {"conditioning": "class", "depth": 28, "patch_size": 8}
    values = {"preset": "Latte-B/4", "network": network, "vae": "v"}
    sized = with_preset(values)
    sizes = {"depth": 28, "patch_size": 8, "hidden_size": 768, "num_heads": 12}
    assert sized == {**values, "network": {**sizes, "conditioning": "class"}}
    assert with_preset({"preset": "Latte-S/8"})["network"] == PRESETS["Latte-S/8"]
    for empty in ({}, {"preset": ""}, {"network": network}):
        assert with_preset(empty) == empty


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 3}, r"`depth` must be even .* got 3"),
        ({"depth": 0}, r"`depth` must be even .* got 0"),
        ({"num_heads": 3}, r"`hidden_size` \(=16\) must be divisible by `num_heads` \(=3\)"),
        ({"num_heads": 0}, r"`hidden_size` \(=16\) must be divisible by `num_heads` \(=0\)"),
        ({"patch_size": 3}, r"`input_size` \(=4\) must be divisible by `patch_size` \(=3\)"),
        ({"hidden_size": 18}, r"`hidden_size` must be divisible by 4 .* got 18"),
        ({"conditioning": "clas"}, r"`conditioning` must be one of .* got 'clas'"),
        ({"num_frames": 0}, r"`num_frames` must be at least 1, got 0"),
        ({"in_channels": 0}, r"`in_channels` must be at least 1, got 0"),
        ({"num_classes": 0}, r"`num_classes` must be at least 1, got 0"),
        ({"text_tokens": 0}, r"`text_tokens` must be at least 1, got 0"),
        ({"text_width": -1}, r"`text_width` must be at least 1, got -1"),
        ({"mlp_ratio": 0.0}, r"`mlp_ratio` .* got 0.0"),
        ({"mlp_ratio": float("nan")}, r"`mlp_ratio` .* got nan"),
        ({"class_dropout_prob": 1.0}, r"`class_dropout_prob` must be in \[0, 1\), got 1.0"),
        ({"class_dropout_prob": -0.1}, r"`class_dropout_prob` must be in \[0, 1\), got -0.1"),
        ({"num_joint_images": -1}, r"`num_joint_images` must not be negative, got -1"),
    ],
)
def test_a_broken_rule_is_named(
    tiny: Callable[..., LatteConfig], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


def test_the_references_spelling() -> None:
    values = {"hidden_size": 48, "num_heads": 4, "extras": 2, "use_image_num": 3, "seed": 1}
    config = LatteConfig.from_upstream(values)
    assert (config.hidden_size, config.conditioning, config.num_joint_images) == (48, "class", 3)
    assert LatteConfig.from_upstream({}).conditioning == "none"
    assert LatteConfig.from_upstream({"extras": 78}).conditioning == "text"
    with pytest.raises(ValueError, match=r"`extras` must be one of \[1, 2, 78\], got 3"):
        LatteConfig.from_upstream({"extras": 3})


def test_labels_and_the_null_label(tiny: Callable[..., LatteConfig]) -> None:
    dropped, plain = tiny(class_dropout_prob=0.1), tiny(class_dropout_prob=0.0)
    assert (dropped.num_labels, dropped.null_label, plain.num_labels) == (6, 5, 5)
    dropped.check_labels(np.array([0, 5]))


@pytest.mark.parametrize(("dropout", "label", "rows"), [(0.1, 6, 6), (0.1, -1, 6), (0.0, 5, 5)])
def test_labels_without_a_row_are_refused(
    tiny: Callable[..., LatteConfig], dropout: float, label: int, rows: int
) -> None:
    config = tiny(class_dropout_prob=dropout)
    for name in ("y", "y_image"):
        message = rf"`{name}` must be in \[0, {rows}\) for `num_classes` \(=5\), got {label}"
        with pytest.raises(ValueError, match=message):
            config.check_labels(np.array([[0, 1], [2, label]]), name)


def test_channels_of_the_output(tiny: Callable[..., LatteConfig]) -> None:
    assert tiny(learn_sigma=True).out_channels == 6
    assert tiny(learn_sigma=False).out_channels == 3
