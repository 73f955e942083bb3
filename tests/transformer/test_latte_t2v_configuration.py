"""config.json of the text-to-video network: what is read, written and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import DIFFUSERS_CLASS, LatteT2VConfig

# Parameters of diffusers' network with Latte-1's configuration.
LATTE_1 = 1_057_246_880


@pytest.fixture
def written(tmp_path: Path, tiny_t2v: Callable[..., LatteT2VConfig]) -> Callable[..., Path]:
    """`written(**fields)`: a config.json with these fields changed; None leaves one out."""

    def write(**fields: Any) -> Path:
        values = tiny_t2v().to_dict() | fields
        path = tmp_path / "config.json"
        path.write_text(json.dumps({k: v for k, v in values.items() if v != "(left out)"}))
        return path

    return write


def test_the_defaults_are_latte_1() -> None:
    config = LatteT2VConfig()
    assert (config.hidden_size, config.resolved_out_channels, config.caption_channels) == (
        1152,
        8,
        4096,
    )
    network = LatteT2V(LatteT2VConfig(num_layers=1), seed=None)
    pairs = [network.transformer_blocks[0], network.temporal_transformer_blocks[0]]
    layer = sum(p.size for block in pairs for p in block.get_parameters())
    total = sum(p.size for p in network.get_parameters())
    assert total + (config.num_layers - 1) * layer == LATTE_1


def test_the_file_of_diffusers_is_read(reference: Path) -> None:
    config = LatteT2VConfig.from_json(reference / "t2v" / "transformer" / "config.json")
    sizes = (config.num_attention_heads, config.attention_head_dim, config.hidden_size)
    assert sizes == (3, 8, 24)
    assert (config.num_layers, config.video_length, config.num_joint_images) == (2, 16, 0)


def test_writing_and_reading_is_the_identity(
    tiny_t2v: Callable[..., LatteT2VConfig], tmp_path: Path
) -> None:
    for images in (0, 2):
        config = tiny_t2v(num_joint_images=images, out_channels=None)
        config.to_json(tmp_path / "config.json")
        assert LatteT2VConfig.from_json(tmp_path / "config.json") == config


def test_only_fields_of_diffusers_are_written_for_video(
    tiny_t2v: Callable[..., LatteT2VConfig], reference: Path
) -> None:
    recorded = json.loads((reference / "t2v" / "transformer" / "config.json").read_text())
    assert set(tiny_t2v().to_dict()) == set(recorded) - {"_diffusers_version"}
    assert tiny_t2v(num_joint_images=2).to_dict()["num_joint_images"] == 2


def test_channels_of_the_output(tiny_t2v: Callable[..., LatteT2VConfig]) -> None:
    assert tiny_t2v(out_channels=6).resolved_out_channels == 6
    assert tiny_t2v(out_channels=None).resolved_out_channels == 3


def test_fields_that_decide_nothing_are_ignored(written: Callable[..., Path]) -> None:
    path = written(_diffusers_version="0.29.0", norm_num_groups=32, attention_type="default")
    assert LatteT2VConfig.from_json(path).num_layers == 1


def test_fields_left_out_are_those_of_diffusers(written: Callable[..., Path]) -> None:
    assert LatteT2VConfig.from_json(written(sample_size="(left out)")).sample_size == 64
    assert LatteT2VConfig.from_json(written(norm_eps="(left out)")).norm_eps == 1e-5
    with pytest.raises(ValueError, match=r"config.json: `activation_fn` must be .* got 'geglu'"):
        LatteT2VConfig.from_json(written(activation_fn="(left out)"))
    with pytest.raises(ValueError, match=r"`patch_size` must be an integer .* got None"):
        LatteT2VConfig.from_json(written(patch_size="(left out)"))


@pytest.mark.parametrize("model", ["AutoencoderKL", "PixArtTransformer2DModel", None])
def test_another_model_is_refused(written: Callable[..., Path], model: str | None) -> None:
    with pytest.raises(ValueError, match=rf"must describe a {DIFFUSERS_CLASS}, .* is {model!r}"):
        LatteT2VConfig.from_json(written(_class_name=model))


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold an object of fields, got list"):
        LatteT2VConfig.from_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("activation_fn", "geglu", r"`activation_fn` must be 'gelu-approximate', got 'geglu'"),
        ("norm_type", "layer_norm", r"`norm_type` must be 'ada_norm_single', got 'layer_norm'"),
        ("norm_elementwise_affine", True, r"`norm_elementwise_affine` must be False, got True"),
        ("dropout", 0.1, r"`dropout` must be 0, got 0.1"),
        ("attention_type", "gated", r"`attention_type` must be 'default', got 'gated'"),
        ("only_cross_attention", True, r"`only_cross_attention` must be False, got True"),
        ("cross_attention_dim", 8, r"`cross_attention_dim` must be .*\(=16\), .* got 8"),
        ("cross_attention_dim", None, r"`cross_attention_dim` must be .* got None"),
        ("attention_head_dim", 5, r"`attention_head_dim` \(=10\) must be divisible by 4"),
        ("num_layers", 0, r"`num_layers` must be an integer of at least 1, got 0"),
        ("num_attention_heads", 0, r"`num_attention_heads` must be .* at least 1, got 0"),
        ("patch_size", -2, r"`patch_size` must be an integer of at least 1, got -2"),
        ("sample_size", 1, r"`sample_size` \(=1\) must be at least `patch_size` \(=2\)"),
        ("caption_channels", None, r"`caption_channels` must be .* at least 1, got None"),
        ("out_channels", 0, r"`out_channels` must be an integer of at least 1, got 0"),
        ("video_length", 2.0, r"`video_length` must be an integer of at least 1, got 2.0"),
        ("num_joint_images", -1, r"`num_joint_images` must be .* at least 0, got -1"),
        ("norm_eps", 0.0, r"`norm_eps` must be above 0 and at most 1, got 0.0"),
    ],
)
def test_a_broken_rule_is_named(
    written: Callable[..., Path], field: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LatteT2VConfig.from_json(written(**{field: value}))
