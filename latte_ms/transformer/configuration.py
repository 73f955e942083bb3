"""The configuration of Latte, with the twelve sizes of the paper and its design choices."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from latte_ms.messages import shown
from latte_ms.options import Rule, check_each, integers, one_of

CONDITIONINGS = ("none", "class", "text")
BlockKind = Literal["spatial", "temporal", "sequential", "parallel"]
# The kinds of the blocks of the paper's four variants (section 3.1): they alternate, or the first
# half is of one kind and the second half of the other.
_ALTERNATING: dict[int, tuple[BlockKind, ...]] = {
    1: ("spatial", "temporal"),
    3: ("sequential",),
    4: ("parallel",),
}
_HALVES: dict[int, tuple[BlockKind, BlockKind]] = {2: ("spatial", "temporal")}
_DESIGN_RULES: dict[str, Rule] = {
    "variant": one_of(1, 2, 3, 4),
    "patch_embedding": one_of("uniform", "compression"),
    "temporal_patch_size": integers(1, 1024),
    "injection": one_of("adaln", "tokens"),
    "positions": one_of("absolute", "rotary_temporal", "rotary"),
}
_LATTE_AT_LEAST_ONE = (
    "input_size",
    "patch_size",
    "in_channels",
    "hidden_size",
    "num_frames",
    "num_classes",
    "text_tokens",
    "text_width",
)

# depth, hidden size, heads (paper, table of model sizes); the name's number is the patch size
SIZES = {
    "XL": (28, 1152, 16),
    "L": (24, 1024, 16),
    "B": (12, 768, 12),
    "S": (12, 384, 6),
}
PRESETS: dict[str, dict[str, Any]] = {
    f"Latte-{size}/{patch}": {
        "depth": depth,
        "hidden_size": hidden_size,
        "num_heads": heads,
        "patch_size": patch,
    }
    for size, (depth, hidden_size, heads) in SIZES.items()
    for patch in (2, 4, 8)
}


@dataclass(frozen=True)
class LatteConfig:
    """What a Latte network is. Defaults are the reference's for 256 x 256 pixels, Latte-XL/2.

    Raises:
        ValueError: a field breaks its rule; the message names field, rule and value.
    """

    input_size: int = 32  # height and width of a latent frame
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28  # blocks, alternately spatial and temporal
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_frames: int = 16
    num_classes: int = 1000  # for conditioning "class"
    class_dropout_prob: float = 0.1  # of labels or captions; above 0 adds a "no class" label
    learn_sigma: bool = True  # predict a variance together with the noise
    conditioning: str = "none"  # none, class or text
    num_joint_images: int = 0  # images after the frames in joint image-video training
    text_tokens: int = 77  # for conditioning "text"
    text_width: int = 768
    # The paper's design choices; with these defaults the network is the reference's.
    variant: int = 1  # 1: blocks in turn, 2: first all spatial ones, 3: both attentions in a block,
    # one after the other, 4: half of the heads each
    patch_embedding: str = "uniform"  # or compression: a token of several frames
    temporal_patch_size: int = 1  # frames of a token, for compression
    injection: str = "adaln"  # or tokens: timestep and condition are tokens of each frame
    # rotary_temporal: rotary along the frames, absolute within them; rotary: within them, too
    positions: str = "absolute"

    def __post_init__(self) -> None:
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(
                f"`conditioning` must be one of {CONDITIONINGS}, got {shown(self.conditioning)}."
            )
        for name in _LATTE_AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        self._check_design()
        if not 1 <= self.hidden_size * self.mlp_ratio < math.inf:
            raise ValueError(
                f"`mlp_ratio` times `hidden_size` (={self.hidden_size}) must be at least 1 and "
                f"finite, got {self.mlp_ratio}."
            )
        self._check_sizes()
        self._check_divides("hidden_size", "num_heads")
        self._check_divides("input_size", "patch_size")
        if self.hidden_size % 4:
            raise ValueError(
                f"`hidden_size` must be divisible by 4 for the position embedding, "
                f"got {self.hidden_size}."
            )
        if not 0.0 <= self.class_dropout_prob < 1.0:
            raise ValueError(
                f"`class_dropout_prob` must be in [0, 1), got {self.class_dropout_prob}."
            )
        if self.num_joint_images < 0:
            raise ValueError(
                f"`num_joint_images` must not be negative, got {self.num_joint_images}."
            )

    def _check_design(self) -> None:
        check_each(self, _DESIGN_RULES)
        if self.variant in (1, 2) and (self.depth < 2 or self.depth % 2):
            raise ValueError(
                f"`depth` must be even for `variant` {self.variant} (as many spatial as temporal "
                f"blocks), got {self.depth}."
            )
        if self.depth < 1:
            raise ValueError(f"`depth` must be at least 1, got {self.depth}.")
        if self.variant == 4 and self.num_heads % 2:
            raise ValueError(
                f"`num_heads` must be even for `variant` 4, which gives half of them to either "
                f"attention, got {self.num_heads}."
            )
        if (self.patch_embedding == "compression") != (self.temporal_patch_size > 1):
            raise ValueError(
                f"`temporal_patch_size` (={self.temporal_patch_size}) must be above 1 for, and "
                f"only for, `patch_embedding` compression (is {self.patch_embedding})."
            )
        if self.patch_embedding == "compression":
            self._check_divides("num_frames", "temporal_patch_size")
            if self.num_joint_images:
                raise ValueError(
                    f"`num_joint_images` (={self.num_joint_images}) must be 0 for "
                    "`patch_embedding` compression: an image is no tubelet of frames."
                )
        pairs = 4 if self.positions == "rotary" else 2
        if self.positions != "absolute" and (self.hidden_size // self.num_heads) % pairs:
            raise ValueError(
                f"`hidden_size` (={self.hidden_size}) over `num_heads` (={self.num_heads}) must be "
                f"divisible by {pairs} for `positions` {self.positions}."
            )

    def _check_sizes(self) -> None:
        """Raise ValueError for sizes that can only be mistakes, before they take all memory."""
        tokens = (self.input_size // self.patch_size) ** 2 * max(self.num_frames, 1)
        linear = self.depth * self.hidden_size**2 * max(1, int(self.mlp_ratio))
        tables = max(self.num_classes, self.text_tokens * self.text_width) * self.hidden_size
        for names, values, most in (
            ("`input_size`, `num_frames` and `hidden_size`", tokens * self.hidden_size, 2**31),
            ("`depth`, `hidden_size` and `mlp_ratio`", linear, 2**36),
            ("`num_classes` or `text_tokens`, and `hidden_size`", tables, 2**36),
        ):
            if values > most:
                raise ValueError(f"{names} ask for {values} values, more than {most}.")

    def _check_divides(self, whole: str, part: str) -> None:
        if getattr(self, part) < 1 or getattr(self, whole) % getattr(self, part):
            raise ValueError(
                f"`{whole}` (={getattr(self, whole)}) must be divisible by "
                f"`{part}` (={getattr(self, part)})."
            )

    @classmethod
    def from_name(cls, name: str, **fields: Any) -> "LatteConfig":
        """One of the twelve sizes, "Latte-XL/2" to "Latte-S/8", with changes of other fields."""
        if name not in PRESETS:
            raise ValueError(f"`name` must be one of {', '.join(PRESETS)}; got {shown(name)}.")
        return cls(**{**PRESETS[name], **fields})

    @classmethod
    def from_upstream(cls, values: dict[str, Any]) -> "LatteConfig":
        """Read the reference's own spelling: `extras` 1, 2 or 78 and `use_image_num`."""
        modes = {1: "none", 2: "class", 78: "text"}
        if values.get("extras", 1) not in modes:
            raise ValueError(f"`extras` must be one of {sorted(modes)}, got {values['extras']}.")
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {key: value for key, value in values.items() if key in known}
        fields["conditioning"] = modes[values.get("extras", 1)]
        fields["num_joint_images"] = values.get("use_image_num", 0)
        return cls(**fields)

    @property
    def plan(self) -> tuple[BlockKind, ...]:
        """What each block attends over."""
        if self.variant in _HALVES:
            first, second = _HALVES[self.variant]
            return (first,) * (self.depth // 2) + (second,) * (self.depth // 2)
        kinds = _ALTERNATING[self.variant]
        return kinds * (self.depth // len(kinds))

    @property
    def token_frames(self) -> int:
        """Frames of tokens that a clip has."""
        return self.num_frames // self.temporal_patch_size

    @property
    def condition_tokens(self) -> int:
        """Tokens of each frame that are the timestep or the condition."""
        if self.injection == "adaln":
            return 0
        return 1 if self.conditioning == "none" else 2

    @property
    def is_divisible(self) -> bool:
        """Whether ranks can divide a clip: its frames, and along them the tokens of patches."""
        plain = self.injection == "adaln" and self.patch_embedding == "uniform"
        return plain and self.variant in (1, 2)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields, but for design choices at their default: older checkpoints lack them."""
        values = dataclasses.asdict(self)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name not in _DESIGN_RULES or value != defaults[name]
        }

    @property
    def out_channels(self) -> int:
        return self.in_channels * 2 if self.learn_sigma else self.in_channels

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(F, C, h, w) of the latents of a training clip, joint images included."""
        frames = self.num_frames + self.num_joint_images
        return (frames, self.in_channels, self.input_size, self.input_size)

    @property
    def null_label(self) -> int:
        """The label that stands for "no class"."""
        return self.num_classes

    @property
    def num_labels(self) -> int:
        """Rows of the label table, the null label included where there is one."""
        return self.num_classes + (1 if self.class_dropout_prob > 0 else 0)

    def check_labels(self, labels: np.ndarray, name: str = "y") -> None:
        """Raise ValueError for a label that has no row: kernels read out of range silently."""
        bad = np.asarray(labels)[(np.asarray(labels) < 0) | (np.asarray(labels) >= self.num_labels)]
        if bad.size:
            raise ValueError(
                f"`{name}` must be in [0, {self.num_labels}) for `num_classes` "
                f"(={self.num_classes}), got {int(bad.flat[0])}."
            )


def with_preset(values: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of a recipe, with the sizes of its `preset` where its `network` omits them."""
    name, network = values.get("preset") or "", values.get("network", {})
    if name == "" or not isinstance(network, dict):
        return values
    if str(name) not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}; got {shown(name)}.")
    return {**values, "network": PRESETS[str(name)] | network}
