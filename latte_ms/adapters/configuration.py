"""What LoRA training changes, and how much: keys of a recipe."""

from dataclasses import dataclass, field

from latte_ms.options import check_each, integers, items, numbers, optional, text

TARGETS = ("attention",)


@dataclass(frozen=True)
class LoraConfig:
    """The matrices that are trained instead of the weights.

    Raises ValueError for a value out of range, and for keys that do nothing without a rank.
    """

    rank: int = 0  # rows of the matrix A; 0: no LoRA, all weights are trained
    alpha: float | None = None  # the change is alpha / rank B A; None: the rank
    # attention, mlp, or names of modules or the last parts of these, such as to_q
    targets: list[str] = field(default_factory=lambda: list(TARGETS))

    def __post_init__(self) -> None:
        rules = {
            "rank": integers(0, 4096),
            "alpha": optional(numbers(1e-6, 1e6)),
            "targets": items(text, 1, 10_000),
        }
        check_each(self, rules, "lora.")
        if not self.rank and (self.alpha is not None or self.targets != list(TARGETS)):
            raise ValueError("`lora.alpha` and `lora.targets` need a `lora.rank`, which is 0.")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank
