"""Configuration of the T5 v1.1 encoder, in the fields of transformers' config.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.config import read_json, write_json
from latte_ms.messages import shown
from latte_ms.options import (
    MANY,
    Rule,
    boolean,
    check_each,
    check_present,
    fraction,
    integers,
    items,
    numbers,
    optional,
    positive_fraction,
    text,
)

MODEL_TYPE = "t5"
FEED_FORWARD = "gated-gelu"  # T5 v1.1; the original T5 has "relu"
# Defaults of transformers for missing fields, where they differ from those of `T5Config`.
TRANSFORMERS_DEFAULTS: dict[str, Any] = {
    "d_model": 512,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "feed_forward_proj": "relu",
}
_MAX_PARAMETERS = 1 << 36  # of weights
_RULES: dict[str, Rule] = {
    "vocab_size": integers(1, 1 << 24),
    "d_model": integers(1, 65_536),
    "d_kv": integers(1, 8192),
    "d_ff": integers(1, 1 << 18),
    "num_layers": integers(1, 256),
    "num_heads": integers(1, 1024),
    "relative_attention_num_buckets": integers(4, 65_536),
    "relative_attention_max_distance": integers(1, MANY),
    "layer_norm_epsilon": positive_fraction,
    "dropout_rate": fraction,
}
# Fields of the file that decide nothing here.
_OTHER_RULES: dict[str, Rule] = {
    "architectures": optional(items(text, 0, 100)),
    "classifier_dropout": optional(fraction),
    "dense_act_fn": optional(text),
    "dtype": optional(text),
    "torch_dtype": optional(text),
    "initializer_factor": optional(numbers(0, 1e6)),
    "is_encoder_decoder": optional(boolean),
    "is_gated_act": optional(boolean),
    "num_decoder_layers": optional(integers(0, 256)),
    "pad_token_id": optional(integers(0, 1 << 24)),
    "transformers_version": optional(text),
    "use_cache": optional(boolean),
}


@dataclass(frozen=True)
class T5Config:
    """Configuration of `T5Encoder`. Defaults are those of T5 v1.1 XXL, the text encoder of Latte-1.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    vocab_size: int = 32128
    d_model: int = 4096  # hidden size
    d_kv: int = 64  # channels of a head; num_heads * d_kv need not equal d_model
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = FEED_FORWARD
    dropout_rate: float = 0.1  # for training; not used here, only written by `to_json`

    def __post_init__(self) -> None:
        check_each(self, _RULES)
        if self.feed_forward_proj != FEED_FORWARD:
            raise ValueError(
                f"`feed_forward_proj` must be {FEED_FORWARD!r}, as in T5 v1.1, "
                f"got {shown(self.feed_forward_proj)}."
            )
        buckets, distance = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )
        if buckets % 4:
            raise ValueError(
                f"`relative_attention_num_buckets` must be a multiple of 4, got {buckets}."
            )
        if distance <= buckets // 4:
            raise ValueError(
                f"`relative_attention_max_distance` (={distance}) must be greater than a quarter "
                f"of `relative_attention_num_buckets` (={buckets})."
            )
        if self.min_parameters > _MAX_PARAMETERS:
            raise ValueError(
                "`d_model`, `d_ff`, `num_layers` and `vocab_size` ask for more than "
                f"{_MAX_PARAMETERS} values."
            )

    @property
    def min_parameters(self) -> int:
        """A lower bound of the number of parameters, to refuse absurd sizes: the large matrices."""
        block = (4 * self.inner_size + 3 * self.d_ff) * self.d_model
        return self.num_layers * block + self.vocab_size * self.d_model

    @property
    def inner_size(self) -> int:
        """Channels of all heads together."""
        return self.num_heads * self.d_kv

    @classmethod
    def from_json(cls, path: str | Path) -> "T5Config":
        """Read the config.json of a `T5EncoderModel` of transformers.

        Raises ValueError when the file describes another model, or an unsupported variant;
        FileNotFoundError when it is missing.
        """
        values = read_json(path)
        model = values.get("model_type")
        if model != MODEL_TYPE:
            raise ValueError(
                f"{path} must describe a T5 encoder, its `model_type` is {shown(model)} instead of "
                f"{MODEL_TYPE!r}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {name: value for name, value in values.items() if name in known}
        try:
            check_present(values, _OTHER_RULES)
            return cls(**(TRANSFORMERS_DEFAULTS | fields))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that transformers' `T5EncoderModel` reads."""
        return {
            "architectures": ["T5EncoderModel"],
            "model_type": MODEL_TYPE,
            "is_encoder_decoder": False,
            "use_cache": False,
            "pad_token_id": 0,
            "eos_token_id": 1,
            **dataclasses.asdict(self),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as a config.json."""
        write_json(path, self.to_dict())
