"""Alphas of a LoRA file: from peft's configuration to modules, and back."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from latte_ms.adapters.weights import LoraWeights
from latte_ms.messages import shown
from latte_ms.weights.errors import WeightError


@dataclass(frozen=True)
class Scaling:
    """What peft's configuration says about alphas.

    Attributes:
        alpha: of modules that `pattern` does not name; None: the rank of each.
        pattern: alphas by names of modules, or by the last parts of these.
        rank_stabilised: the change is alpha / sqrt(r) B A.

    Raises WeightError for values of another kind.
    """

    alpha: float | None = None
    pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        stated = {} if self.alpha is None else {"lora_alpha": self.alpha}
        if not isinstance(self.pattern, dict):
            raise WeightError(f"`alpha_pattern` must be an object, got {shown(self.pattern)}.")
        for name, value in {**stated, **self.pattern}.items():
            if not _is_number(value):
                raise WeightError(f"`{name}` must be a finite number, got {shown(value)}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Scaling":
        """Of the fields of peft's LoraConfig; raises WeightError for what is not read."""
        for name in ("use_dora", "lora_bias", "use_qalora", "use_bdlora"):
            if config.get(name):
                raise WeightError(f"`{name}` of its configuration is not supported.")
        for name in ("modules_to_save", "layer_replication", "trainable_token_indices"):
            if config.get(name):
                raise WeightError(f"`{name}` of its configuration must be null: it is not read.")
        if config.get("bias", "none") != "none":
            raise WeightError(f"`bias` must be none, got {shown(config['bias'])}.")
        pattern = config.get("alpha_pattern") or {}
        return cls(config.get("lora_alpha"), pattern, config.get("use_rslora") is True)

    def check_names(self, modules: Collection[str]) -> None:
        """Raise WeightError where a key of `pattern` names none of the modules.

        peft takes keys as regular expressions; here they are names, or their last parts.
        """
        for key in self.pattern:
            if not any(_names(key, module) for module in modules):
                raise WeightError(
                    f"`alpha_pattern` must have names of modules, or the last parts of names, as "
                    f"keys, got {shown(key)}."
                )

    def of(self, module: str, rank: int) -> float:
        """The alpha with which alpha / r B A is the change of a module of this rank."""
        found = [value for key, value in self.pattern.items() if _names(key, module)]
        alpha = found[0] if found else rank if self.alpha is None else self.alpha
        return float(alpha) * (math.sqrt(rank) if self.rank_stabilised else 1.0)


def config_of(lora: LoraWeights) -> dict[str, Any]:
    """The fields of peft's LoraConfig that describe these weights.

    Raises WeightError for weights without modules.
    """
    if not lora:
        raise WeightError("`lora` must have at least one module, got none.")
    ranks = {module: change.rank for module, change in lora.items()}
    alphas = {module: _plain(change.alpha) for module, change in lora.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "alpha_pattern": {module: a for module, a in alphas.items() if a != alpha},
        "target_modules": sorted(lora),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
    }


def _names(key: str, module: str) -> bool:
    name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return module == name or module.endswith("." + name)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _plain(alpha: float) -> int | float:
    """A whole alpha as peft declares it, an integer."""
    return int(alpha) if float(alpha).is_integer() else float(alpha)
