"""The adapters of a network: LoRA weights by name, and which of them act, how strongly."""

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from latte_ms.adapters.files import read
from latte_ms.adapters.merging import Scaled, merged
from latte_ms.adapters.weights import LoraWeights, fitted, modules
from latte_ms.weights import mapping
from latte_ms.weights.errors import located, quoted
from latte_ms.weights.network import assign, contents
from latte_ms.weights.tensors import Shape, from_arrays

_KEY = "adapters"  # of a network's `shared_objects`


@dataclass(frozen=True)
class State:
    """Attributes:
    loaded: all adapters.
    active: the weights of those that act, in order.
    enabled: False: none acts.
    fused: those that act instead of the active ones, with their scales.
    permanent: what was fused when its adapters were unloaded.
    """

    loaded: Mapping[str, LoraWeights] = field(default_factory=dict)
    active: Mapping[str, float] = field(default_factory=dict)
    enabled: bool = True
    fused: Mapping[str, float] = field(default_factory=dict)
    permanent: tuple[Scaled, ...] = ()

    @property
    def acting(self) -> list[Scaled]:
        """What is added to the weights, besides `permanent`."""
        scales = (self.fused or self.active) if self.enabled else {}
        return [(self.loaded[name], scale) for name, scale in scales.items() if scale != 0]


class Adapters:
    """Named adapters of one network, with diffusers' rules; all users of the network share them.

    Adapters act by changed values of the network's parameters, so no graph is compiled again. The
    values of before are kept on the host, and come back bit for bit. A change that fails leaves
    everything as it was.

    Args:
        shapes: makes `weights.modules` of the network, when they are first needed.
    """

    def __init__(self, shapes: Callable[[], Mapping[str, Shape]]) -> None:
        self.state = State()
        self.version = 0  # changes whenever the parameters do
        self._shapes = shapes
        self._network: Callable[[], Any] = lambda: None  # or a weak reference
        self._before: dict[str, np.ndarray] = {}  # tensors on disk that adapters have changed

    def attach(self, network: nn.Cell) -> None:
        """Let the adapters act on `network`, whose weights are as they were loaded."""
        network.shared_objects[_KEY] = self
        self._network, self._before = weakref.ref(network), {}
        state = self.state
        if state.permanent:
            self._apply(list(state.permanent))
            self._before = {}
        self._apply(state.acting)

    @property
    def names(self) -> list[str]:
        """All adapters, in the order in which they were added."""
        return list(self.state.loaded)

    @property
    def active(self) -> list[str]:
        """The adapters that were chosen to act."""
        return list(self.state.active)

    def add(self, lora: LoraWeights, name: str | None = None, replace: bool = False) -> str:
        """Add an adapter, which acts alone from now on with weight 1; returns its name.

        Args:
            name: None is `default_` with the number of adapters, or the next number that is free.
            replace: the adapter `name` exists, and is replaced, with its place and weight.
        Raises:
            ValueError: the name is taken (or, to be replaced, is not), or the weights do not fit
                the network.
        """
        state = self.state
        if name is None:
            numbers = itertools.count(len(state.loaded))
            name = next(n for i in numbers if (n := f"default_{i}") not in state.loaded)
        if not isinstance(name, str) or not name:
            raise ValueError(f"`adapter_name` must be a text that is not empty, got {name!r}.")
        if replace:
            self._check_names([name])
            self._refuse_fused([name])
        elif name in state.loaded:
            raise ValueError(f"`adapter_name` (={name!r}) is the name of a loaded adapter.")
        lora = fitted(lora, self._shapes())
        active = state.active if replace else {name: 1.0}
        self._become(loaded={**state.loaded, name: lora}, active=active)
        return name

    def activate(self, names: Sequence[str], weights: Sequence[float]) -> None:
        """Let these adapters act, and no others.

        Raises ValueError for a name that is not loaded, or is there twice.
        """
        self._check_names(names)
        if len(set(names)) < len(names):
            raise ValueError(f"`adapter_names` must name each adapter once, got {list(names)}.")
        self._become(active=dict(zip(names, weights, strict=True)))

    def delete(self, names: Sequence[str]) -> None:
        """Forget adapters; if none is left that acts, the first of the others does, as in peft."""
        self._check_names(names)
        self._refuse_fused(names)
        state = self.state
        loaded = {name: lora for name, lora in state.loaded.items() if name not in names}
        active = {name: weight for name, weight in state.active.items() if name not in names}
        if not active and loaded:
            active = {next(iter(loaded)): 1.0}
        self._become(loaded=loaded, active=active)

    def unload(self) -> None:
        """Forget all adapters. What is fused stays in the weights, for good."""
        state = self.state
        fused = tuple(state.acting) if state.fused else ()
        if fused:
            self._before = {}
        self.state = State(permanent=(*state.permanent, *fused))
        if not fused:
            self._apply([])

    def fuse(self, names: Sequence[str] | None, scale: float) -> None:
        """Fix adapters (None: the active ones) with their weights times `scale`."""
        state = self.state
        chosen = self.active if names is None else list(names)
        self._check_names(chosen)
        weights = {name: state.active.get(name, 1.0) * scale for name in chosen}
        self._become(fused={**weights, **state.fused}, enabled=True)

    def unfuse(self) -> None:
        """The active adapters act again, with their own weights."""
        self._become(fused={})

    def enable(self, enabled: bool) -> None:
        """Whether the active adapters act. Disabling undoes `fuse`, as in peft."""
        self._become(enabled=enabled, fused=self.state.fused if enabled else {})

    def _become(self, **changes: Any) -> None:
        state = dataclasses.replace(self.state, **changes)
        self._apply(state.acting)
        self.state = state

    def _apply(self, acting: Sequence[Scaled]) -> None:
        """Give the parameters the values of before plus `acting`; all of them, or none."""
        network = self._network()
        if network is None:
            return
        wanted = [f"{module}.weight" for lora, _ in acting for module in lora]
        names = list(dict.fromkeys([*self._before, *wanted]))
        if not names:
            return
        now, known = contents(network), self._before
        before = {n: known[n] if n in known else np.array(now[n]) for n in names}
        parameters = dict(network.parameters_and_names())
        groups = mapping.groups_of_parameters(mapping.map_of(network), parameters)
        tensors = merged(from_arrays(before), acting)
        assign(tensors, {name: groups[name] for name in names}, parameters)
        self._before = {name: before[name] for name in wanted}
        self.version += 1

    def _check_names(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self.state.loaded]
        if missing:
            raise ValueError(
                f"`adapter_names` must be loaded adapters ({quoted(self.names)}), got {missing}."
            )

    def _refuse_fused(self, names: Sequence[str]) -> None:
        fused = [name for name in names if name in self.state.fused]
        if fused:
            raise ValueError(f"`adapter_names` {fused} are fused: call `unfuse_lora` first.")


def adapters_of(network: nn.Cell) -> Adapters:
    """The adapters of a `Latte` or `LatteT2V`."""
    if _KEY not in network.shared_objects:
        Adapters(lambda: modules(contents(network).specs)).attach(network)
    return network.shared_objects[_KEY]


def load_adapters(
    network: nn.Cell, paths: Sequence[str | Path], scales: Sequence[float]
) -> Adapters:
    """Let the LoRA weights in these files or folders act together on a network.

    Raises ValueError for a file that is damaged or does not fit; the message names it.
    """
    adapters = adapters_of(network)
    for path in paths:
        lora = read(path)
        with located(path):
            adapters.add(lora)
    if paths:
        adapters.activate(adapters.names, scales)
    return adapters


def version_of(network: nn.Cell) -> int:
    """A number that changes whenever adapters change the network's parameters."""
    return network.shared_objects[_KEY].version if _KEY in network.shared_objects else 0


def refuse_unfused(network: nn.Cell | None) -> None:
    """Raise ValueError where weights would be saved with adapters that act without being fused."""
    if network is None or _KEY not in network.shared_objects:
        return
    state = network.shared_objects[_KEY].state
    if state.acting and not state.fused:
        raise ValueError(
            f"`transformer` has the adapters {quoted(state.active)}, which are not fused: call "
            "`fuse_lora` to save them with it, or `unload_lora_weights` to save it without."
        )
