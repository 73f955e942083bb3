"""LoRA weights (arXiv 2106.09685): a change (alpha / r) B A of low rank for each adapted layer.

Layers are called modules, and have the names of the reference (of diffusers for `LatteT2V`). In
`Latte`, queries, keys and values are one module `blocks.N.attn.qkv`, as in its reference: they
share the matrix A, and each has its rows of B. So peft can inject the weights into the reference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from latte_ms.weights.errors import WeightError, quoted
from latte_ms.weights.finite import count_non_finite
from latte_ms.weights.matching import nearest
from latte_ms.weights.tensors import Shape, Spec

_WEIGHT = ".weight"
_SHOWN = 4  # modules in one message


@dataclass(frozen=True)
class LowRank:
    """The change of one module of weight (out, in).

    Attributes:
        a: (r, in); (r, C, p, p) for a convolution over patches.
        b: (out, r); (out, r, 1, 1) for a convolution.
        alpha: the change is alpha / r times B A.

    Raises WeightError for other shapes, and for values that are not finite.
    """

    a: np.ndarray
    b: np.ndarray
    alpha: float

    def __post_init__(self) -> None:
        fits = self.a.ndim in (2, 4) and self.b.ndim in (2, 4)
        if not fits or self.b.shape[1:] != (self.rank, *[1] * (self.b.ndim - 2)) or not self.rank:
            raise WeightError(
                "its matrices must be A (r, in) and B (out, r) of one rank r, "
                f"got {self.a.shape} and {self.b.shape}."
            )
        if not np.isfinite(self.alpha):
            raise WeightError(f"its alpha must be finite, got {self.alpha}.")
        if count_non_finite(self.a) or count_non_finite(self.b):
            raise WeightError("its matrices hold NaN or infinite values.")

    @property
    def rank(self) -> int:
        """r, the number of rows of A."""
        return int(self.a.shape[0])

    def change(self, scale: float = 1.0) -> np.ndarray:
        """`scale` (alpha / r) B A: (out, in) float32."""
        a = self.a.reshape(self.rank, -1).astype(np.float32)
        b = self.b.reshape(-1, self.rank).astype(np.float32)
        return (b @ a) * np.float32(scale * self.alpha / self.rank)

    def fits(self, shape: Shape) -> bool:
        """Whether the module's weight has the shape that this changes."""
        inner = self.a.shape[1:]
        if len(shape) == 2 and inner[1:] == (1, 1):  # a linear layer, stored as a convolution
            inner = inner[:1]
        return (self.b.shape[0], *inner) == shape


class LoraWeights(Mapping[str, LowRank]):
    """Changes of low rank by the names of their modules."""

    def __init__(self, changes: Mapping[str, LowRank]) -> None:
        self._changes = dict(changes)

    def __getitem__(self, module: str) -> LowRank:
        return self._changes[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)


def modules(specs: Mapping[str, Spec]) -> dict[str, Shape]:
    """The modules of a network with the shapes of their weights, from its tensors on disk."""
    return {
        name.removesuffix(_WEIGHT): spec.shape
        for name, spec in specs.items()
        if name.endswith(_WEIGHT) and len(spec.shape) > 1
    }


def fitted(lora: LoraWeights, shapes: Mapping[str, Shape]) -> LoraWeights:
    """The same changes under the names of a network's modules.

    kohya's names, which have underscores for dots, are replaced.

    Args:
        shapes: see `modules`.
    Raises:
        WeightError: the network lacks a module, or its weight has another shape.
    """
    underscored = {name.replace(".", "_"): name for name in shapes}
    named = {underscored.get(name, name): change for name, change in lora.items()}
    if len(named) < len(lora):
        raise WeightError("it is damaged: it holds a module twice, under two names.")
    unknown = [name for name in named if name not in shapes]
    if unknown:
        rest = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        names = ", ".join(nearest(unknown[:_SHOWN], shapes))
        raise WeightError(f"the network has no modules {names}{rest}.")
    wrong = [name for name, change in named.items() if not change.fits(shapes[name])]
    if wrong:
        change, shape = named[wrong[0]], shapes[wrong[0]]
        raise WeightError(
            f"{len(wrong)} of {len(named)} modules do not fit the network, such as "
            f"{quoted(wrong[:1])}: A {change.a.shape} and B {change.b.shape} for a weight {shape}."
        )
    return LoraWeights(named)
