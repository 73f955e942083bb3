"""Configuration of the text-to-video network, in the fields of diffusers' config.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.config import read_json, write_json

MODEL = "LatteTransformer3DModel"
# Fields that this network has in one form only, and fields of older files that would make it
# another network; diffusers' own class ignores the latter.
FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "norm_type": ("ada_norm_single",),
    "norm_elementwise_affine": (False,),
    "dropout": (0, 0.0),
    "attention_type": ("default",),
    "double_self_attention": (False,),
    "only_cross_attention": (False,),
}
# What diffusers' constructor takes for a field that a file leaves out, where it is not ours.
LEFT_OUT: dict[str, Any] = {
    "attention_head_dim": 88,
    "in_channels": None,
    "out_channels": None,
    "num_layers": 1,
    "cross_attention_dim": None,
    "attention_bias": False,
    "patch_size": None,
    "activation_fn": "geglu",
    "num_embeds_ada_norm": None,
    "norm_type": "layer_norm",
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
    "caption_channels": None,
}
_AT_LEAST_ONE = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "sample_size",
    "patch_size",
    "caption_channels",
    "video_length",
)


@dataclass(frozen=True)
class LatteT2VConfig:
    """What a text-to-video network is. Defaults are Latte-1's, for 16 x 512 x 512 pixels.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72  # the width of the network is heads times this
    in_channels: int = 4
    out_channels: int | None = 8  # None: as `in_channels`; twice as many predict a variance too
    num_layers: int = 28  # pairs of a spatial and a temporal block
    dropout: float = 0.0
    cross_attention_dim: int | None = 1152  # must be the width: captions are projected to it
    attention_bias: bool = True  # of queries, keys and values
    sample_size: int = 64  # height and width of the latents it was made for
    patch_size: int = 2
    activation_fn: str = "gelu-approximate"
    num_embeds_ada_norm: int | None = 1000  # training timesteps; decides nothing here
    norm_type: str = "ada_norm_single"
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    caption_channels: int = 4096  # width of the text embeddings
    video_length: int = 16  # frames
    num_joint_images: int = 0  # images behind the frames in joint training; not diffusers'

    def __post_init__(self) -> None:
        for name, allowed in FIXED.items():
            if hasattr(self, name):
                _check_fixed(name, getattr(self, name), allowed)
        for name in _AT_LEAST_ONE:
            _check_count(name, getattr(self, name), 1)
        if self.out_channels is not None:
            _check_count("out_channels", self.out_channels, 1)
        _check_count("num_joint_images", self.num_joint_images, 0)
        if self.width % 4:
            raise ValueError(
                f"`num_attention_heads` times `attention_head_dim` (={self.width}) must be "
                "divisible by 4 for the position embedding."
            )
        if self.cross_attention_dim != self.width:
            raise ValueError(
                f"`cross_attention_dim` must be `num_attention_heads` times `attention_head_dim` "
                f"(={self.width}), to which captions are projected, got {self.cross_attention_dim}."
            )
        if self.sample_size < self.patch_size:
            raise ValueError(
                f"`sample_size` (={self.sample_size}) must be at least `patch_size` "
                f"(={self.patch_size})."
            )
        if self.norm_eps <= 0:
            raise ValueError(f"`norm_eps` must be positive, got {self.norm_eps}.")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def channels_out(self) -> int:
        """Channels of the output: the noise, and behind it a variance where there is one."""
        return self.in_channels if self.out_channels is None else self.out_channels

    @classmethod
    def from_json(cls, path: str | Path) -> "LatteT2VConfig":
        """Read the config.json of a diffusers `LatteTransformer3DModel`.

        Fields that the file leaves out are those of diffusers' constructor; unknown ones are
        ignored, as there.

        Raises ValueError when the file describes another model, or a variant of this one that the
        code does not have; FileNotFoundError for the file.
        """
        values = read_json(path)
        model = values.get("_class_name")
        if model != MODEL:
            raise ValueError(f"{path} must describe a {MODEL}, its `_class_name` is {model!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            for name in FIXED.keys() & values.keys() - known:
                _check_fixed(name, values[name], FIXED[name])
            fields = {name: value for name, value in values.items() if name in known}
            return cls(**(LEFT_OUT | fields))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that diffusers' `from_pretrained` reads.

        `num_joint_images` is in it only where it is not 0: diffusers warns of fields it lacks.
        """
        values = {"_class_name": MODEL, **dataclasses.asdict(self)}
        if self.num_joint_images == 0:
            del values["num_joint_images"]
        return values

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as a config.json."""
        write_json(path, self.to_dict())


def _check_fixed(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be {allowed[0]!r}, got {value!r}.")


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
