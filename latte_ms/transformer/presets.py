"""Configuration of a Latte network and the twelve sizes of the paper."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

CONDITIONINGS = ("none", "class", "text")
_AT_LEAST_ONE = (
    "input_size",
    "patch_size",
    "in_channels",
    "hidden_size",
    "num_frames",
    "num_classes",
    "text_tokens",
    "text_width",
)

# depth, width, heads (paper, table of model sizes); the name's number is the patch size
SIZES = {
    "XL": (28, 1152, 16),
    "L": (24, 1024, 16),
    "B": (12, 768, 12),
    "S": (12, 384, 6),
}
PRESETS: dict[str, dict[str, Any]] = {
    f"Latte-{size}/{patch}": {
        "depth": depth,
        "hidden_size": width,
        "num_heads": heads,
        "patch_size": patch,
    }
    for size, (depth, width, heads) in SIZES.items()
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
    class_dropout_prob: float = 0.1  # of training labels; above 0 there is a "no class" label
    learn_sigma: bool = True  # predict a variance beside the noise
    conditioning: str = "none"  # none, class or text
    num_joint_images: int = 0  # images behind the frames in joint image-video training
    text_tokens: int = 77  # for conditioning "text"
    text_width: int = 768

    def __post_init__(self) -> None:
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(
                f"`conditioning` must be one of {CONDITIONINGS}, got {self.conditioning!r}."
            )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.depth < 2 or self.depth % 2:
            raise ValueError(
                f"`depth` must be even (a spatial block is followed by a temporal one), "
                f"got {self.depth}."
            )
        if not 1 <= self.hidden_size * self.mlp_ratio < math.inf:
            raise ValueError(
                f"`mlp_ratio` times `hidden_size` (={self.hidden_size}) must be at least 1 and "
                f"finite, got {self.mlp_ratio}."
            )
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

    def _check_divides(self, whole: str, part: str) -> None:
        if getattr(self, part) < 1 or getattr(self, whole) % getattr(self, part):
            raise ValueError(
                f"`{whole}` (={getattr(self, whole)}) must be divisible by "
                f"`{part}` (={getattr(self, part)})."
            )

    @classmethod
    def from_name(cls, name: str, **fields: Any) -> "LatteConfig":
        """One of the twelve sizes, "Latte-XL/2" to "Latte-S/8", with other fields as given."""
        if name not in PRESETS:
            raise ValueError(f"`name` must be one of {', '.join(PRESETS)}; got {name!r}.")
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
    def out_channels(self) -> int:
        return self.in_channels * 2 if self.learn_sigma else self.in_channels

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
    """The keys of a recipe, with the sizes of its `preset` where its `network` leaves them out."""
    name, network = values.get("preset") or "", values.get("network", {})
    if name == "" or not isinstance(network, dict):
        return values
    if str(name) not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}; got {name!r}.")
    return {**values, "network": PRESETS[str(name)] | network}
