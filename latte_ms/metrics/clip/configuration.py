"""Configuration of CLIP, in the fields of transformers' config.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from latte_ms.config import read_json
from latte_ms.messages import shown
from latte_ms.options import Rule, check_each, integers, one_of, positive_fraction

MODEL_TYPE = "clip"
ACTIVATIONS = ("quick_gelu", "gelu")  # x sigmoid(1.702 x), and the exact one
_TOWER_RULES: dict[str, Rule] = {
    "hidden_size": integers(1, 65_536),
    "intermediate_size": integers(1, 1 << 18),
    "num_hidden_layers": integers(1, 256),
    "num_attention_heads": integers(1, 1024),
    "hidden_act": one_of(*ACTIVATIONS),
    "layer_norm_eps": positive_fraction,
}


@dataclass(frozen=True)
class TowerConfig:
    """A transformer. Raises ValueError for a field that breaks its rule."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_each(self, _TOWER_RULES)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` (={self.hidden_size}) must be divisible by `num_attention_heads` "
                f"(={self.num_attention_heads})."
            )

    @property
    def min_parameters(self) -> int:
        """A lower bound of the number of parameters: the large matrices."""
        block = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * block


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower; defaults are transformers'."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    vocab_size: int = 49_408
    max_position_embeddings: int = 77  # tokens of a text

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {"vocab_size": integers(3, 1 << 24), "max_position_embeddings": integers(3, 65_536)}
        check_each(self, rules)


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower; defaults are transformers', those of ViT-B/32."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        rules: dict[str, Rule] = {
            "image_size": integers(1, 4096),
            "patch_size": integers(1, 4096),
            "num_channels": one_of(3),
        }
        check_each(self, rules)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"`image_size` (={self.image_size}) must be divisible by `patch_size` "
                f"(={self.patch_size})."
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers, and the length of the vectors that they end in."""

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    projection_dim: int = 512

    def __post_init__(self) -> None:
        check_each(self, {"projection_dim": integers(1, 65_536)})

    @property
    def in_channels(self) -> int:
        """Of an image."""
        return self.vision.num_channels

    @property
    def min_parameters(self) -> int:
        """A lower bound of the number of parameters, to refuse absurd sizes."""
        table = self.text.vocab_size * self.text.hidden_size
        return table + self.text.min_parameters + self.vision.min_parameters

    @classmethod
    def from_json(cls, path: str | Path) -> "CLIPConfig":
        """Read the config.json of a `CLIPModel` of transformers.

        Raises ValueError when the file describes another model, or an unsupported variant.
        """
        values = read_json(path)
        model = values.get("model_type")
        if model != MODEL_TYPE:
            raise ValueError(
                f"{path} must describe CLIP, its `model_type` is {shown(model)} instead of "
                f"{MODEL_TYPE!r}."
            )
        try:
            text = _tower(TextConfig, values, "text_config")
            vision = _tower(VisionConfig, values, "vision_config")
            return cls(text, vision, values.get("projection_dim", cls.projection_dim))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


Tower = TypeVar("Tower", bound=TowerConfig)


def _tower(cls: type[Tower], values: dict[str, Any], key: str) -> Tower:
    """A tower of a config.json; `key`_dict, which older files have, overrides `key`."""
    fields: dict[str, Any] = {}
    for name in (key, f"{key}_dict"):
        part = values.get(name) or {}
        if not isinstance(part, dict):
            raise ValueError(f"`{name}` must be an object, got {shown(part)}.")
        fields |= part
    known = {field.name for field in dataclasses.fields(cls)}
    try:
        return cls(**{name: value for name, value in fields.items() if name in known})
    except ValueError as error:
        raise ValueError(f"`{key}`: {error}") from error
