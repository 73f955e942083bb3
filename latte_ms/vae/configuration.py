"""Configurations of the two KL autoencoders, in the fields of diffusers' config.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from latte_ms.config import read_json, write_json
from latte_ms.messages import shown
from latte_ms.options import Rule, boolean, check_each, integers, is_one_of, items, positive

Config = TypeVar("Config", bound="_KLConfig")

_MAX_PARAMETERS = 1 << 36  # of weights
_RULES: dict[str, Rule] = {
    "in_channels": integers(1, 4096),
    "out_channels": integers(1, 4096),
    "latent_channels": integers(1, 4096),
    "block_out_channels": items(integers(1, 16_384), 1, 12),
    "layers_per_block": integers(1, 64),
    "scaling_factor": positive(1e6),
    "sample_size": integers(1, 65_536),
    "force_upcast": boolean,
}
_AUTOENCODER_RULES: dict[str, Rule] = {
    "norm_num_groups": integers(1, 16_384),
    "mid_block_add_attention": boolean,
    "use_quant_conv": boolean,
    "use_post_quant_conv": boolean,
}

DOWN_BLOCK = "DownEncoderBlock2D"
UP_BLOCK = "UpDecoderBlock2D"


@dataclass(frozen=True)
class _KLConfig:
    """The fields of both autoencoders. Defaults are those of Stable Diffusion."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (
        128,
        256,
        512,
        512,
    )  # all but the last downsample
    layers_per_block: int = 2  # residual blocks in the encoder; the decoder has one more
    scaling_factor: float = 0.18215  # scales the latents to about unit variance
    sample_size: int = 256  # height and width of the training images
    force_upcast: bool = True  # not used here, only written by `to_json`

    model: ClassVar[str]  # the class in diffusers
    blocks: ClassVar[dict[str, str]]  # field that lists the blocks -> their only supported type
    # Fields of the file with one supported meaning -> the values that stand for it.
    fixed: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __post_init__(self) -> None:
        # YAML and JSON read sequences as lists.
        if isinstance(self.block_out_channels, list):
            object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        check_each(self, _RULES)
        if self.min_parameters > _MAX_PARAMETERS:
            raise ValueError(
                "`block_out_channels` and `layers_per_block` must be smaller, got "
                f"{shown(self.block_out_channels)} and {self.layers_per_block}."
            )

    @property
    def min_parameters(self) -> int:
        """A lower bound of the number of parameters, to refuse absurd sizes."""
        return 9 * self.layers_per_block * sum(c * c for c in self.block_out_channels)

    @property
    def downsampling(self) -> int:
        """Pixels per latent in each direction."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @classmethod
    def from_json(cls: type[Config], path: str | Path) -> Config:
        """Read the config.json of the diffusers class of the same kind.

        Raises ValueError when the file describes another model, or an unsupported variant;
        FileNotFoundError when it is missing.
        """
        values = read_json(path)
        cls._check_model(values, path)
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            config = cls(**{name: value for name, value in values.items() if name in known})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        config._check_blocks(values, path)
        return config

    def to_json(self, path: str | Path) -> None:
        """Write the config.json that `from_pretrained` of the diffusers class reads."""
        values: dict[str, Any] = {
            "_class_name": self.model,
            **dataclasses.asdict(self),
            **{name: allowed[0] for name, allowed in self.fixed.items() if allowed[0] is not None},
            **{name: [block] * len(self.block_out_channels) for name, block in self.blocks.items()},
        }
        write_json(path, values)

    def _check_groups(self, name: str, groups: int) -> None:
        for channels in self.block_out_channels:
            if channels < 1 or channels % groups:
                raise ValueError(
                    f"`block_out_channels` (={shown(self.block_out_channels)}) must be divisible "
                    f"by {name} (={groups})."
                )

    @classmethod
    def _check_model(cls, values: dict[str, Any], path: str | Path) -> None:
        model = values.get("_class_name")
        if model != cls.model:
            raise ValueError(
                f"{path} must describe an {cls.model}, its `_class_name` is {shown(model)}."
            )
        for name, allowed in cls.fixed.items():
            value = values.get(name, allowed[0])
            if not is_one_of(value, allowed):
                raise ValueError(f"`{name}` in {path} must be {allowed[0]!r}, got {shown(value)}.")

    def _check_blocks(self, values: dict[str, Any], path: str | Path) -> None:
        for name, block in self.blocks.items():
            expected = [block] * len(self.block_out_channels)
            if values.get(name) not in (None, expected):
                raise ValueError(
                    f"`{name}` in {path} must be {shown(expected)}, got {shown(values[name])}."
                )


@dataclass(frozen=True)
class AutoencoderConfig(_KLConfig):
    """Configuration of `AutoencoderKL`; Latte uses Stable Diffusion's at 256 x 256.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    model: ClassVar[str] = "AutoencoderKL"
    blocks: ClassVar[dict[str, str]] = {
        "down_block_types": DOWN_BLOCK,
        "up_block_types": UP_BLOCK,
    }
    fixed: ClassVar[dict[str, tuple[Any, ...]]] = {
        "act_fn": ("silu", "swish"),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "latents_std": (None,),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each(self, _AUTOENCODER_RULES)
        self._check_groups("`norm_num_groups`", self.norm_num_groups)


@dataclass(frozen=True)
class TemporalDecoderConfig(_KLConfig):
    """Configuration of `AutoencoderKLTemporalDecoder`, whose encoder is that of Stable Diffusion.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    model: ClassVar[str] = "AutoencoderKLTemporalDecoder"
    blocks: ClassVar[dict[str, str]] = {"down_block_types": DOWN_BLOCK}
    # Fields of the other autoencoder, fixed here.
    norm_num_groups: ClassVar[int] = 32
    mid_block_add_attention: ClassVar[bool] = True
    use_quant_conv: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_groups("the groups of its normalisations", self.norm_num_groups)


def read_config(path: str | Path) -> AutoencoderConfig | TemporalDecoderConfig:
    """The configuration in a config.json of either autoencoder, told by its `_class_name`.

    Raises as `AutoencoderConfig.from_json` does.
    """
    kinds = {kind.model: kind for kind in (AutoencoderConfig, TemporalDecoderConfig)}
    model = read_json(path).get("_class_name")
    if not isinstance(model, str) or model not in kinds:
        raise ValueError(
            f"{path} must describe one of {list(kinds)}, its `_class_name` is {shown(model)}."
        )
    return kinds[model].from_json(path)
