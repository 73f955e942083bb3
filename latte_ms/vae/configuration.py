"""Configuration of the KL autoencoder, in the fields of diffusers' config.json."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "AutoencoderKL"
DOWN_BLOCK = "DownEncoderBlock2D"
UP_BLOCK = "UpDecoderBlock2D"
# Fields of the file that this autoencoder has in one form only: the name, and the forms it takes.
FIXED = {
    "act_fn": ("silu", "swish"),
    "shift_factor": (None,),
    "latents_mean": (None,),
    "latents_std": (None,),
}


@dataclass(frozen=True)
class AutoencoderConfig:
    """What an autoencoder is. Defaults are Stable Diffusion's, which Latte uses at 256 x 256.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # one block halves the picture
    layers_per_block: int = 2  # residual blocks in the encoder; the decoder has one more
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # brings the latents near unit variance
    sample_size: int = 256  # height and width of the pictures it was made for
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        # YAML and JSON read sequences as lists.
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        if not self.block_out_channels:
            raise ValueError("`block_out_channels` must hold at least one width, got ().")
        for name in ("in_channels", "out_channels", "latent_channels", "layers_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for width in self.block_out_channels:
            if width < 1 or width % self.norm_num_groups:
                raise ValueError(
                    f"`block_out_channels` (={self.block_out_channels}) must be divisible by "
                    f"`norm_num_groups` (={self.norm_num_groups})."
                )
        if self.scaling_factor <= 0:
            raise ValueError(f"`scaling_factor` must be positive, got {self.scaling_factor}.")

    @property
    def downsampling(self) -> int:
        """Pixels per latent in each direction."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @classmethod
    def from_json(cls, path: str | Path) -> "AutoencoderConfig":
        """Read the config.json of a diffusers `AutoencoderKL`.

        Raises ValueError when the file describes another model, or a variant of this one that the
        code does not have; FileNotFoundError for the file.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold an object of fields, got {type(values).__name__}.")
        _check_model(values, path)
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_json(self, path: str | Path) -> None:
        """Write the config.json that diffusers' `AutoencoderKL.from_pretrained` reads."""
        blocks = len(self.block_out_channels)
        values: dict[str, Any] = {
            "_class_name": MODEL,
            **dataclasses.asdict(self),
            "act_fn": "silu",
            "down_block_types": [DOWN_BLOCK] * blocks,
            "up_block_types": [UP_BLOCK] * blocks,
        }
        Path(path).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_model(values: dict[str, Any], path: str | Path) -> None:
    model = values.get("_class_name")
    if model != MODEL:
        raise ValueError(f"{path} must describe an {MODEL}, its `_class_name` is {model!r}.")
    for name, allowed in FIXED.items():
        value = values.get(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"`{name}` in {path} must be {allowed[0]!r}, got {value!r}.")
    for name, block in (("down_block_types", DOWN_BLOCK), ("up_block_types", UP_BLOCK)):
        blocks = values.get(name)
        wanted = [block] * len(values.get("block_out_channels", ()))
        if blocks is not None and list(blocks) != wanted:
            raise ValueError(f"`{name}` in {path} must be {wanted}, got {blocks}.")
