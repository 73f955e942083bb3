"""The configuration of LatteT2V, in diffusers' fields."""

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
    integers,
    is_one_of,
    optional,
    positive_fraction,
)

DIFFUSERS_CLASS = "LatteTransformer3DModel"
# PixArt-alpha's network: the spatial half of this one, under the same names.
PIXART_CLASSES = ("PixArtTransformer2DModel", "Transformer2DModel")
# Fields that must have the value shown. The last three occur in older files only; diffusers ignores
# them, but another value means another network.
DIFFUSERS_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "norm_type": ("ada_norm_single",),
    "norm_elementwise_affine": (False,),
    "dropout": (0, 0.0),
    "attention_type": ("default",),
    "double_self_attention": (False,),
    "only_cross_attention": (False,),
}
# Defaults of diffusers' constructor for fields that a file omits, where they differ from ours.
DIFFUSERS_DEFAULTS: dict[str, Any] = {
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
_T2V_RULES: dict[str, Rule] = {
    "num_attention_heads": integers(1, 1024),
    "attention_head_dim": integers(1, 8192),
    "in_channels": integers(1, 4096),
    "out_channels": optional(integers(1, 8192)),
    "num_layers": integers(1, 256),
    "cross_attention_dim": optional(integers(1, 65_536)),
    "attention_bias": boolean,
    "sample_size": integers(1, 16_384),
    "patch_size": integers(1, 1024),
    "num_embeds_ada_norm": optional(integers(1, MANY)),
    "norm_eps": positive_fraction,
    "caption_channels": integers(1, 65_536),
    "video_length": integers(1, 65_536),
    "num_joint_images": integers(0, 65_536),
}


@dataclass(frozen=True)
class LatteT2VConfig:
    """What a text-to-video network is. Defaults are Latte-1's, for 16 x 512 x 512 pixels.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72  # the hidden size is heads times this
    in_channels: int = 4
    out_channels: int | None = 8  # None: as `in_channels`; twice as many predict a variance too
    num_layers: int = 28  # pairs of a spatial and a temporal block
    dropout: float = 0.0
    cross_attention_dim: int | None = 1152  # must be the hidden size: prompts are projected to it
    attention_bias: bool = True  # bias of queries, keys and values
    sample_size: int = 64  # height and width of the latents it was made for
    patch_size: int = 2
    activation_fn: str = "gelu-approximate"
    num_embeds_ada_norm: int | None = 1000  # training timesteps; has no effect here
    norm_type: str = "ada_norm_single"
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    caption_channels: int = 4096  # channels of the prompt embeddings
    video_length: int = 16  # frames
    num_joint_images: int = 0  # images after the frames in joint training; not in diffusers

    def __post_init__(self) -> None:
        for name, allowed in DIFFUSERS_FIXED.items():
            if hasattr(self, name):
                _check_fixed(name, getattr(self, name), allowed)
        check_each(self, _T2V_RULES)
        if self.hidden_size % 4:
            raise ValueError(
                f"`num_attention_heads` times `attention_head_dim` (={self.hidden_size}) must be "
                "divisible by 4 for the position embedding."
            )
        if self.cross_attention_dim != self.hidden_size:
            raise ValueError(
                f"`cross_attention_dim` must be `num_attention_heads` times `attention_head_dim` "
                f"(={self.hidden_size}), to which prompts are projected, "
                f"got {self.cross_attention_dim}."
            )
        if self.sample_size < self.patch_size:
            raise ValueError(
                f"`sample_size` (={self.sample_size}) must be at least `patch_size` "
                f"(={self.patch_size})."
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Raise ValueError for sizes that can only be mistakes, before they take all memory."""
        tokens = (self.sample_size // self.patch_size) ** 2 + self.video_length
        for names, values, most in (
            (
                "`attention_head_dim`, `num_attention_heads` and `num_layers`",
                self.min_parameters,
                2**36,
            ),
            ("`sample_size`, `patch_size` and `video_length`", tokens * self.hidden_size, 2**26),
        ):
            if values > most:
                raise ValueError(f"{names} ask for {values} values, more than {most}.")

    @property
    def min_parameters(self) -> int:
        """A lower bound of the number of parameters, to refuse absurd sizes."""
        hidden = self.hidden_size
        return 12 * hidden**2 * self.num_layers + self.caption_channels * hidden

    @property
    def hidden_size(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def resolved_out_channels(self) -> int:
        """Channels of the output: the noise, followed by a variance where there is one."""
        return self.in_channels if self.out_channels is None else self.out_channels

    @classmethod
    def from_json(cls, path: str | Path, images: bool = False) -> "LatteT2VConfig":
        """Read the config.json of a diffusers `LatteTransformer3DModel`.

        Omitted fields have the defaults of diffusers' constructor; unknown ones are ignored, as
        there.

        Args:
            images: PixArt-alpha's network of images is taken too, with the default `video_length`.
        Raises:
            ValueError: the file describes another model, or a variant that is not supported.
            FileNotFoundError: the file does not exist.
        """
        values = read_json(path)
        model = values.get("_class_name")
        if model != DIFFUSERS_CLASS and not (images and model in PIXART_CLASSES):
            raise ValueError(
                f"{path} must describe a {DIFFUSERS_CLASS}, its `_class_name` is {shown(model)}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            for name in DIFFUSERS_FIXED.keys() & values.keys() - known:
                _check_fixed(name, values[name], DIFFUSERS_FIXED[name])
            fields = {name: value for name, value in values.items() if name in known}
            return cls(**(DIFFUSERS_DEFAULTS | fields))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that diffusers' `from_pretrained` reads.

        `num_joint_images` is in it only where it is not 0: diffusers warns of fields it lacks.
        """
        values = {"_class_name": DIFFUSERS_CLASS, **dataclasses.asdict(self)}
        if self.num_joint_images == 0:
            del values["num_joint_images"]
        return values

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as a config.json."""
        write_json(path, self.to_dict())


def _check_fixed(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if not is_one_of(value, allowed):
        raise ValueError(f"`{name}` must be {allowed[0]!r}, got {shown(value)}.")
