"""LoRA in a network that is trained: frozen linear layers, each with two matrices beside it."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, nn

from latte_ms.adapters.configuration import LoraConfig
from latte_ms.adapters.weights import LoraWeights, LowRank, fitted
from latte_ms.layers import kernels
from latte_ms.layers.attention import MultiHeadAttention
from latte_ms.layers.linear import Linear
from latte_ms.layers.mlp import Mlp
from latte_ms.messages import shown
from latte_ms.weights import mapping
from latte_ms.weights.matching import nearest
from latte_ms.weights.network import LORA_MATRICES
from latte_ms.weights.transforms import TRANSFORMS

_KINDS: dict[str, type[nn.Cell]] = {"attention": MultiHeadAttention, "mlp": Mlp}
_A, _B = LORA_MATRICES
_LINEAR_TRANSFORMS = ("same", "stacked rows")  # of modules that are linear layers on disk


class LoraLinear(Linear):
    """A frozen `Linear` plus scale B A x; A (r, in) and B (out, r) are float32.

    Args:
        linear: its weight and bias are used, under their names.
        a: A, which several layers may share.
        scale: alpha / r.
    """

    def __init__(self, linear: Linear, a: Parameter, scale: float) -> None:
        nn.Cell.__init__(self)
        self.dtype, self.train_bias, self.scale = linear.dtype, linear.train_bias, scale
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_a = a
        out_features, rank = linear.weight.shape[0], a.shape[0]
        self.lora_b = Parameter(Tensor(np.zeros((out_features, rank), np.float32)), name=_B)

    def construct(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        y = super().construct(x)
        low = kernels.linear(x.astype(self.dtype), self.lora_a.astype(self.dtype))
        return y + kernels.linear(low, self.lora_b.astype(self.dtype)) * self.scale


class Module(NamedTuple):
    """A linear layer of the reference, and the cells that it is here."""

    name: str
    paths: tuple[str, ...]  # of the cells; three for queries, keys and values of `Latte`
    cells: tuple[Linear, ...]
    kind: str  # of `LoraConfig.targets`; empty for layers outside of blocks


def linear_modules(network: nn.Cell) -> list[Module]:
    """The linear layers of a `Latte` or `LatteT2V`."""
    cells = dict(network.cells_and_names())
    names = [name for name, _ in network.parameters_and_names() if name.endswith(".weight")]
    groups = mapping.groups_of_parameters(mapping.map_of(network), names)
    found = []
    for disk, group in groups.items():
        paths = tuple(name.removesuffix(".weight") for name in group.memory)
        members = tuple(m for path in paths if isinstance(m := cells.get(path), Linear))
        if len(members) < len(paths):
            continue
        if any(group.transform is TRANSFORMS[name] for name in _LINEAR_TRANSFORMS):
            parent = cells[paths[0].rpartition(".")[0]]
            kind = next((k for k, cls in _KINDS.items() if isinstance(parent, cls)), "")
            found.append(Module(disk.removesuffix(".weight"), paths, members, kind))
    return found


def chosen_modules(network: nn.Cell, targets: list[str]) -> list[Module]:
    """The modules that `LoraConfig.targets` names, in the order of the network.

    Raises ValueError for a target that names none.
    """
    present = linear_modules(network)
    for target in targets:
        if not any(_names(target, module) for module in present):
            near = ", ".join(nearest([target], [module.name for module in present]))
            raise ValueError(
                "`lora.targets` must be attention, mlp, or names of linear layers or the last "
                f"parts of these, got {shown(target)}: no layer is called {near}."
            )
    return [m for m in present if any(_names(target, m) for target in targets)]


def add_lora(network: nn.Cell, config: LoraConfig, seed: int = 0) -> None:
    """Freeze a network's parameters and put matrices of low rank beside its linear layers.

    The network then predicts what it did before: A is uniform within 1 / sqrt(in), as peft draws
    it (Kaiming's with a = sqrt 5), and B is zero. Call it before the network is compiled.

    Args:
        network: a `Latte` or `LatteT2V` with its weights.
        config: with a rank of at least 1.
        seed: draws the matrices A.
    Raises:
        ValueError: the rank is 0, the network has LoRA already, or a target names no layer.
    """
    if config.rank < 1:
        raise ValueError(f"`lora.rank` must be at least 1, got {config.rank}.")
    if has_lora(network):
        raise ValueError("`network` has LoRA matrices already.")
    chosen = chosen_modules(network, config.targets)
    rng, cells = np.random.default_rng(seed), dict(network.cells_and_names())
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    for module in chosen:
        bound = 1.0 / math.sqrt(module.cells[0].weight.shape[1])
        size = (config.rank, module.cells[0].weight.shape[1])
        value = ((rng.random(size, np.float32) * 2 - 1) * bound).astype(np.float32)
        a = Parameter(Tensor(value), name=_A)
        for path, linear in zip(module.paths, module.cells, strict=True):
            parent, _, attribute = path.rpartition(".")
            setattr(cells[parent], attribute, LoraLinear(linear, a, config.scale))
    for name, parameter in network.parameters_and_names():  # replacing cells prefixed them anew
        parameter.name = name


def has_lora(network: nn.Cell) -> bool:
    """Whether `add_lora` has been called for the network."""
    return any(isinstance(cell, LoraLinear) for _, cell in network.cells_and_names())


def lora_weights(
    network: nn.Cell, parameters: Mapping[str, Parameter] | None = None
) -> LoraWeights:
    """The matrices of a network of `add_lora`, under the reference's names.

    Args:
        parameters: instead of the network's own, under their names, such as an EMA.
    """
    changes = {}
    for module, a, b in _matrices(network, parameters):
        scale = module.cells[0].scale
        joined = np.concatenate([part.asnumpy() for part in b])
        changes[module.name] = LowRank(a.asnumpy().copy(), joined, scale * a.shape[0])
    return LoraWeights(changes)


def set_lora_weights(
    network: nn.Cell, lora: LoraWeights, parameters: Mapping[str, Parameter] | None = None
) -> None:
    """Fill the matrices of a network of `add_lora`, or `parameters`, from `lora`.

    Raises ValueError, before anything is changed, unless modules, ranks and alphas are the same.
    """
    own = lora_weights(network)
    lora = fitted(lora, {name: (len(own[name].b), own[name].a.shape[1]) for name in own})
    differing = [n for n in own if n not in lora or _kind(lora[n]) != _kind(own[n])]
    if differing:
        raise ValueError(
            f"`lora` must have the modules, ranks and alphas of the network, and differs in "
            f"{len(differing)} of {len(own)} modules, such as `{differing[0]}`."
        )
    for module, a, b in _matrices(network, parameters):
        change = lora[module.name]
        a.set_data(Tensor(change.a.astype(np.float32)))
        for part, value in zip(b, np.split(change.b.astype(np.float32), len(b)), strict=True):
            part.set_data(Tensor(np.ascontiguousarray(value)))


def _kind(change: LowRank) -> tuple[int, float]:
    return change.rank, round(change.alpha, 9)


def _matrices(
    network: nn.Cell, parameters: Mapping[str, Parameter] | None
) -> Iterator[tuple[Module, Parameter, list[Parameter]]]:
    """Each module with its A and, for each of its cells, B."""
    for module in linear_modules(network):
        if not isinstance(module.cells[0], LoraLinear):
            continue
        own = (module.cells[0].lora_a, *(cell.lora_b for cell in module.cells))
        chosen = [p if parameters is None else parameters[p.name] for p in own]
        yield module, chosen[0], chosen[1:]


def _names(target: str, module: Module) -> bool:
    if target in _KINDS:
        return module.kind == target
    return module.name == target or module.name.endswith("." + target)
