"""Reading and writing diffusers' config.json, and what is refused."""

import json
from pathlib import Path

import pytest

from latte_ms.vae.configuration import AutoencoderConfig


@pytest.fixture
def values(reference: Path) -> dict[str, object]:
    return dict(json.loads((reference / "vae" / "config.json").read_text()))


def written(values: dict[str, object], folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def test_reads_diffusers_file(reference: Path) -> None:
    config = AutoencoderConfig.from_json(reference / "vae" / "config.json")
    assert config == AutoencoderConfig(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, sample_size=32
    )
    assert config.downsampling == 8


def test_written_file_has_diffusers_fields(values: dict[str, object], tmp_path: Path) -> None:
    config = AutoencoderConfig.from_json(written(values, tmp_path))
    config.to_json(tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert {name: values[name] for name in again} == again
    assert AutoencoderConfig.from_json(tmp_path / "again.json") == config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("_class_name", "AutoencoderKLTemporalDecoder", "must describe an AutoencoderKL"),
        ("act_fn", "relu", "`act_fn` in .* must be 'silu', got 'relu'"),
        ("shift_factor", 0.1159, "`shift_factor` in .* must be None, got 0.1159"),
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 4, "`down_block_types` in .* must be"),
        ("up_block_types", ["UpDecoderBlock2D"] * 3, "`up_block_types` in .* must be"),
        ("norm_num_groups", 5, "must be divisible by `norm_num_groups` \\(=5\\)"),
        ("scaling_factor", 0.0, "`scaling_factor` must be above 0 .*, got 0.0"),
        ("layers_per_block", 0, "`layers_per_block` must be an integer of at least 1, got 0"),
        ("block_out_channels", [], "`block_out_channels` must be a list of 1 to 12 items, got"),
    ],
)
def test_refuses(
    values: dict[str, object], tmp_path: Path, field: str, value: object, message: str
) -> None:
    if field == "block_out_channels":
        values |= {"down_block_types": [], "up_block_types": []}
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig.from_json(written(values | {field: value}, tmp_path))


def test_refuses_a_config_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its `_class_name` is None"):
        AutoencoderConfig.from_json(written({"in_channels": 3}, tmp_path))
