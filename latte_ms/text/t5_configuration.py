"""Configuration of the T5 v1.1 encoder, in the fields of transformers' config.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.config import read_json, write_json

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
_AT_LEAST_ONE = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")


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
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
        if self.feed_forward_proj != FEED_FORWARD:
            raise ValueError(
                f"`feed_forward_proj` must be {FEED_FORWARD!r}, as in T5 v1.1, "
                f"got {self.feed_forward_proj!r}."
            )
        buckets, distance = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )
        if buckets < 4 or buckets % 4:
            raise ValueError(
                f"`relative_attention_num_buckets` must be a multiple of 4, got {buckets}."
            )
        if distance <= buckets // 4:
            raise ValueError(
                f"`relative_attention_max_distance` (={distance}) must be greater than a quarter "
                f"of `relative_attention_num_buckets` (={buckets})."
            )
        if self.layer_norm_epsilon <= 0:
            raise ValueError(
                f"`layer_norm_epsilon` must be positive, got {self.layer_norm_epsilon}."
            )

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
                f"{path} must describe a T5 encoder, its `model_type` is {model!r} instead of "
                f"{MODEL_TYPE!r}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {name: value for name, value in values.items() if name in known}
        try:
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
