"""Applying a network's map: names and arrays from disk to memory and back."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from latte_ms.weights.errors import WeightError, quoted
from latte_ms.weights.maps import MAPS, NetworkMap, Row
from latte_ms.weights.tensors import Naming, Spec, Tensors
from latte_ms.weights.transforms import TRANSFORMS, Transform


class TensorGroup(NamedTuple):
    """One tensor on disk and the parameters it becomes."""

    disk: str
    memory: tuple[str, ...]
    transform: Transform


def same_names(names: Iterable[str]) -> dict[str, TensorGroup]:
    """Groups by name, for tensors that are the same on disk and in memory."""
    return {name: TensorGroup(name, (name,), TRANSFORMS["same"]) for name in names}


def map_of(network: object) -> NetworkMap:
    """The map of a network, by the names of its class and their parents."""
    for cls in type(network).__mro__:
        if cls.__name__ in MAPS:
            return MAPS[cls.__name__]
    raise WeightError(
        f"`cell` must be one of the networks {quoted(MAPS)}, got {type(network).__name__}."
    )


def map_of_names(names: Collection[str]) -> NetworkMap | None:
    """The map of the network that a file's names belong to, or None."""
    known = set(names)
    return next((one for one in MAPS.values() if identifies(one, known)), None)


def identifies(network_map: NetworkMap, names: Collection[str]) -> bool:
    """Whether names are, or contain, those of the map's network."""
    known = set(names)
    return known.issuperset(network_map.identified_by) and known.isdisjoint(network_map.excluded_by)


def naming_of_names(names: Iterable[str], network_map: NetworkMap) -> Naming | None:
    """Whose names these are, by those that only one side has; None where there are none."""
    disk = memory = 0
    for name in names:
        on_disk = _has_row(network_map, name, _disk_templates)
        in_memory = _has_row(network_map, name, lambda row: row.memory_names)
        disk += on_disk and not in_memory
        memory += in_memory and not on_disk
    if disk == memory:
        return None
    return "disk" if disk > memory else "memory"


def groups_of_parameters(network_map: NetworkMap, names: Iterable[str]) -> dict[str, TensorGroup]:
    """Groups by disk name, for the parameter names of a network, in their order."""
    known, groups = set(names := list(names)), {}
    for name in names:
        group = _group(network_map, name, lambda row: row.memory_names)
        groups[group.disk] = group
        missing = [member for member in group.memory if member not in known]
        if missing:
            raise WeightError(f"`{group.disk}` also needs {quoted(missing)}, which is missing.")
    return groups


def groups_of_file(network_map: NetworkMap, names: Iterable[str]) -> dict[str, TensorGroup]:
    """Groups by the names of a file, which may be older spellings; `disk` is the present one."""
    return {name: _group(network_map, name, _disk_templates) for name in names}


def to_stored_layout(
    tensors: Tensors, network_map: NetworkMap, sizes: Mapping[str, int]
) -> Tensors:
    """Tensors under the network's names as tensors under the reference's."""
    groups = groups_of_parameters(network_map, tensors)
    specs = {name: _disk_spec(group, tensors, sizes) for name, group in groups.items()}

    def fetch(name: str) -> np.ndarray:
        group = groups[name]
        return group.transform.join([tensors[m] for m in group.memory], specs[name].shape)

    return Tensors(specs, fetch, "disk", tensors.verify)


def to_network_layout(tensors: Tensors, network_map: NetworkMap) -> Tensors:
    """Tensors under the reference's names as tensors under the network's."""
    origins: dict[str, tuple[str, TensorGroup, int]] = {}
    specs: dict[str, Spec] = {}
    for name, group in groups_of_file(network_map, tensors).items():
        spec = tensors.specs[name]
        shapes = group.transform.memory_shapes(spec.shape, len(group.memory))
        for i, (member, shape) in enumerate(zip(group.memory, shapes, strict=True)):
            specs[member] = Spec(shape, spec.dtype)
            origins[member] = (name, group, i)

    def fetch(member: str) -> np.ndarray:
        name, group, i = origins[member]
        return group.transform.split(tensors[name], [specs[m].shape for m in group.memory])[i]

    return Tensors(specs, fetch, "memory", tensors.verify)


def _disk_spec(group: TensorGroup, tensors: Tensors, sizes: Mapping[str, int]) -> Spec:
    members = [tensors.specs[name] for name in group.memory]
    if len({spec.dtype for spec in members}) != 1:
        raise WeightError(f"{quoted(group.memory)} must have one dtype to be stored as one.")
    shapes = group.transform.disk_shapes([spec.shape for spec in members], sizes)
    return Spec(shapes[0], members[0].dtype)


def _disk_templates(row: Row) -> tuple[str, ...]:
    return (row.disk, *row.aliases)


def _has_row(
    network_map: NetworkMap, name: str, templates: Callable[[Row], tuple[str, ...]]
) -> bool:
    rows = network_map.rows
    return any(_pattern(template).fullmatch(name) for row in rows for template in templates(row))


def _group(
    network_map: NetworkMap, name: str, templates: Callable[[Row], tuple[str, ...]]
) -> TensorGroup:
    """The group of a name that a row's `templates` match."""
    for row in network_map.rows:
        for template in templates(row):
            match = _pattern(template).fullmatch(name)
            if match:
                values = match.groupdict()
                memory = tuple(member.format(**values) for member in row.memory_names)
                return TensorGroup(row.disk.format(**values), memory, TRANSFORMS[row.transform])
    return same_names([name])[name]


@cache
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    numbers = escaped.replace("{n}", r"(?P<n>\d+)")
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^.]+)", numbers))
