"""The section `lora` of a training recipe."""

from dataclasses import dataclass

from latte_ms.adapters.configuration import LoraConfig
from latte_ms.options import one_of


@dataclass(frozen=True)
class LoraTraining(LoraConfig):
    """LoRA matrices that are trained instead of the weights, and the form they are written in."""

    format: str = "diffusers"  # or peft, of what is written at the end of a run

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("diffusers", "peft")("lora.format", self.format)
        if not self.rank and self.format != "diffusers":
            raise ValueError("`lora.format` needs a `lora.rank`, which is 0.")

    def check_initial(self, initial_weights: str, initial_partial: bool) -> None:
        """Raise ValueError where matrices would be added to no weights, or to some drawn here."""
        if self.rank and not initial_weights:
            raise ValueError(
                f"`lora.rank` (={self.rank}) needs `initial_weights`, the weights that the "
                "matrices are added to."
            )
        if self.rank and initial_partial:
            raise ValueError(
                f"`initial_partial` must be false with a `lora.rank` (={self.rank}), got true: "
                "tensors that `initial_weights` lacks would be drawn, and no file would have them."
            )
