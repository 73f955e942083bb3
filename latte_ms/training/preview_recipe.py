"""The section `preview` of a training recipe."""

import dataclasses
from dataclasses import dataclass

from latte_ms.options import MANY, Rule, check_each, integers, numbers, one_of

_RULES: dict[str, Rule] = {
    "every": integers(0, MANY),
    "num_videos": integers(1, 256),
    "num_steps": integers(1, 100_000),
    "guidance_scale": numbers(1, 1000),
    "entry": one_of("ema", "model"),
    "seed": integers(0, 2**63 - 1),
}


@dataclass(frozen=True)
class PreviewConfig:
    """Videos that are sampled while a run goes on, always of the same noise and conditions.

    Raises ValueError for a bad value, and for one that would change nothing.
    """

    every: int = 0  # updates between them; 0: none
    num_videos: int = 4
    num_steps: int = 50  # of DDIM
    guidance_scale: float = 1.0  # 1: off
    entry: str = "ema"  # weights to sample with: ema or model
    seed: int = 0  # of the first video; the next ones have the next numbers

    def __post_init__(self) -> None:
        check_each(self, _RULES, "preview.")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if not self.every and dataclasses.asdict(self) != defaults:
            raise ValueError("`preview.every` must be above 0 for its other keys, got 0.")
