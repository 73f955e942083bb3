"""Names of the tensors of LoRA files, as diffusers, peft and kohya's scripts have spelled them."""

from collections.abc import Iterable
from typing import NamedTuple

from latte_ms.messages import shown
from latte_ms.weights.errors import WeightError

# What a name ends with, and what its tensor is: A, B, alpha, or a part of DoRA.
_ENDS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_down.weight": "a",
    ".lora_up.weight": "b",
    ".lora.down.weight": "a",
    ".lora.up.weight": "b",
    ".lora_linear_layer.down.weight": "a",
    ".lora_linear_layer.up.weight": "b",
    "_lora.down.weight": "a",
    "_lora.up.weight": "b",
    ".alpha": "alpha",
    ".dora_scale": "dora",
    ".lora_magnitude_vector": "dora",
    ".lora_magnitude_vector.weight": "dora",
}
_PEFT = "base_model.model."
_OWNERS = ("transformer.", "unet.", "diffusion_model.", "lora_transformer_", "lora_unet_")
_OTHERS = ("text_encoder.", "text_encoder_2.", "lora_te_", "lora_te1_", "lora_te2_")
_PROCESSOR = ".processor"


class Part(NamedTuple):
    """What a tensor of a LoRA file is: "a", "b", "alpha" or "dora" of a module."""

    module: str  # kohya's have underscores for dots
    kind: str


def parse(names: Iterable[str]) -> dict[str, Part]:
    """The parts of the transformer by the names of their tensors; those of encoders are left out.

    Raises WeightError for a name of another kind, and for two names of one part.
    """
    parts: dict[str, Part] = {}
    seen: dict[Part, str] = {}
    for name in names:
        inner = name.removeprefix(_PEFT)
        if inner.startswith(_OTHERS):
            continue
        parts[name] = part = _part(name, inner)
        if part in seen:
            raise WeightError(f"`{seen[part]}` and `{name}` are two names of one tensor.")
        seen[part] = name
    return parts


def _part(name: str, inner: str) -> Part:
    owner = next((prefix for prefix in _OWNERS if inner.startswith(prefix)), "")
    short = _without_adapter(inner.removeprefix(owner))
    end = next((end for end in _ENDS if short.endswith(end)), None)
    module = short.removesuffix(end or "")
    if end is None or not module:
        raise WeightError(
            f"{shown(name)} is no tensor of LoRA: names end with .lora_A.weight, .lora_B.weight, "
            "or an older spelling of these."
        )
    if end.startswith("_lora."):  # attn1.processor.to_q_lora.down.weight
        module = module.replace(_PROCESSOR, "")
        module += ".0" if module.endswith(".to_out") else ""
    return Part(module, _ENDS[end])


def _without_adapter(name: str) -> str:
    """`x.lora_A.default.weight` as `x.lora_A.weight`: peft's name in memory has the adapter's."""
    parts = name.split(".")
    if len(parts) > 3 and parts[-3] in ("lora_A", "lora_B") and parts[-1] == "weight":
        del parts[-2]
    return ".".join(parts)
