"""LoRA weights added to those of a network: W + scale (alpha / r) B A."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from latte_ms.adapters.weights import LoraWeights
from latte_ms.weights.errors import located
from latte_ms.weights.tensors import Tensors, cast_array

Scaled: TypeAlias = tuple[LoraWeights, float]


def merged(tensors: Tensors, adapters: Sequence[Scaled]) -> Tensors:
    """The tensors of a network with LoRA weights added, each computed at its lookup.

    The sum is float32, and rounded once to the dtype of the tensor; a lookup raises WeightError
    where it does not fit into that.

    Args:
        tensors: under the reference's names.
        adapters: LoRA weights that fit the network, each with its scale.
    """

    def fetch(name: str) -> np.ndarray:
        array, module = tensors[name], name.removesuffix(".weight")
        changes = [lora[module].change(scale) for lora, scale in adapters if module in lora]
        if module == name or not changes:
            return array
        total = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
        for change in changes:
            total = total + change.reshape(array.shape)
        with located("LoRA weights"):
            return cast_array(name, total, array.dtype.name)

    return Tensors(tensors.specs, fetch, tensors.naming, tensors.verify)
