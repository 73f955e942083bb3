"""config.json of the text encoder, both ways."""

import json
from pathlib import Path
from typing import Any

import pytest

from latte_ms.text import T5Config


def write(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps({"model_type": "t5", **values}), encoding="utf-8")
    return path


def test_defaults_are_xxl() -> None:
    config = T5Config()
    block = 4 * config.d_model * config.inner_size + 3 * config.d_model * config.d_ff
    weights = config.num_layers * block + config.vocab_size * config.d_model
    assert 4.7e9 < weights < 4.8e9


def test_the_reference_file_is_read(encoder_folder: Path) -> None:
    config = T5Config.from_json(encoder_folder / "config.json")
    assert (config.d_model, config.d_ff, config.num_layers) == (32, 64, 3)
    assert (config.num_heads, config.d_kv, config.vocab_size) == (4, 8, 85)


def test_written_and_read_again(tmp_path: Path) -> None:
    config = T5Config(d_model=24, num_layers=2, dropout_rate=0.0)
    config.to_json(tmp_path / "config.json")
    assert T5Config.from_json(tmp_path / "config.json") == config


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    import transformers

    config = T5Config(d_model=24, d_kv=6, num_layers=2, relative_attention_num_buckets=16)
    config.to_json(tmp_path / "config.json")
    theirs = transformers.T5Config.from_pretrained(tmp_path)
    assert (theirs.d_model, theirs.d_kv, theirs.num_layers) == (24, 6, 2)
    assert theirs.relative_attention_num_buckets == 16
    assert (theirs.is_gated_act, theirs.dense_act_fn) == (True, "gelu_new")
    assert not theirs.is_encoder_decoder


def test_what_a_file_leaves_out_is_transformers_default(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", feed_forward_proj="gated-gelu", d_model=16)
    config = T5Config.from_json(path)
    assert (config.d_model, config.d_ff, config.num_layers, config.num_heads) == (16, 2048, 6, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "umt5"}, r"must describe a T5 encoder, its `model_type` is 'umt5'"),
        ({}, r"`feed_forward_proj` must be 'gated-gelu', as in T5 v1.1, got 'relu'"),
        ({"d_ff": 0}, r"`d_ff` must be an integer of at least 1, got 0"),
        ({"relative_attention_num_buckets": 6}, r"must be a multiple of 4, got 6"),
        ({"relative_attention_max_distance": 8}, r"`relative_attention_max_distance` \(=8\)"),
        ({"layer_norm_epsilon": 0}, r"`layer_norm_epsilon` must be above 0 and at most 1, got 0"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    fields = values if not values else {"feed_forward_proj": "gated-gelu", **values}
    path = write(tmp_path / "config.json", **fields)
    with pytest.raises(ValueError, match=message) as caught:
        T5Config.from_json(path)
    assert str(path) in str(caught.value)


def test_a_file_without_fields_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold an object of fields, got list"):
        T5Config.from_json(tmp_path / "config.json")
