"""The keys of recipes that name LoRA weights."""

from dataclasses import dataclass, field

from latte_ms.messages import shown
from latte_ms.options import MANY, check_each, items, numbers, text

_MAX_ADAPTERS = 64  # adapters of one recipe


@dataclass(frozen=True)
class LoraOptions:
    """LoRA weights that act together on the network of a recipe.

    Raises ValueError where a value is wrong, or scales and LoRA weights do not pair up.
    """

    # files or folders; for prompts also ids of the hub
    lora: list[str] = field(default_factory=list)
    # how strongly each acts; a single number is for all, and none is 1
    lora_scale: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        scale = numbers(-MANY, MANY)
        check_each(
            self,
            {"lora": items(text, 0, _MAX_ADAPTERS), "lora_scale": items(scale, 0, _MAX_ADAPTERS)},
        )
        if len(self.lora_scale) not in (0, min(1, len(self.lora)), len(self.lora)):
            raise ValueError(
                f"`lora_scale` must be one number, or one for each of `lora` ({len(self.lora)}), "
                f"got {shown(self.lora_scale)}."
            )

    @property
    def scales(self) -> list[float]:
        """One for each of `lora`."""
        given = self.lora_scale or [1.0]
        return given if len(given) > 1 else given * len(self.lora)
