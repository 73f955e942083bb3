"""Applying a network's table: names and arrays from disk to memory and back."""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from latte_ms.weights.errors import WeightError, listing
from latte_ms.weights.maps import MAPS, NetworkMap, Row
from latte_ms.weights.tensors import Spec, Tensors
from latte_ms.weights.transforms import TRANSFORMS, Transform


class Group(NamedTuple):
    """One tensor on disk and the parameters it becomes."""

    disk: str
    memory: tuple[str, ...]
    transform: Transform


def map_of(network: object) -> NetworkMap:
    """The table of a network, by the names of its class and their parents."""
    for cls in type(network).__mro__:
        if cls.__name__ in MAPS:
            return MAPS[cls.__name__]
    raise WeightError(
        f"`cell` must be one of the networks {listing(list(MAPS))}, got {type(network).__name__}."
    )


def map_of_names(names: Collection[str]) -> NetworkMap | None:
    """The table of the network that a file's names belong to, or None."""
    for table in MAPS.values():
        if set(table.marks) <= set(names) and not set(table.absent) & set(names):
            return table
    return None


def by_memory(table: NetworkMap, names: Iterable[str]) -> dict[str, Group]:
    """Groups by disk name, for the parameter names of a network, in their order."""
    known, groups = set(names := list(names)), {}
    for name in names:
        group = _group_of_memory(table, name)
        groups[group.disk] = group
        lost = [member for member in group.memory if member not in known]
        if lost:
            raise WeightError(f"`{group.disk}` also needs {listing(lost)}, which is missing.")
    return groups


def by_disk(table: NetworkMap, names: Iterable[str]) -> dict[str, Group]:
    """Groups by the names of a file, which may be older spellings; `disk` is the present one."""
    return {name: _group_of_disk(table, name) for name in names}


def to_disk(tensors: Tensors, table: NetworkMap, sizes: Mapping[str, int]) -> Tensors:
    """Tensors under the network's names as tensors under the reference's."""
    groups = by_memory(table, tensors)
    specs = {name: _disk_spec(group, tensors, sizes) for name, group in groups.items()}

    def fetch(name: str) -> np.ndarray:
        group = groups[name]
        return group.transform.join([tensors[m] for m in group.memory], specs[name].shape)

    return Tensors(specs, fetch, "disk", tensors.verify)


def to_memory(tensors: Tensors, table: NetworkMap) -> Tensors:
    """Tensors under the reference's names as tensors under the network's."""
    where: dict[str, tuple[str, Group, int]] = {}
    specs: dict[str, Spec] = {}
    for name, group in by_disk(table, tensors).items():
        spec = tensors.specs[name]
        shapes = group.transform.memory_shapes(spec.shape, len(group.memory))
        for i, (member, shape) in enumerate(zip(group.memory, shapes, strict=True)):
            specs[member] = Spec(shape, spec.dtype)
            where[member] = (name, group, i)

    def fetch(member: str) -> np.ndarray:
        name, group, i = where[member]
        return group.transform.split(tensors[name], [specs[m].shape for m in group.memory])[i]

    return Tensors(specs, fetch, "memory", tensors.verify)


def _disk_spec(group: Group, tensors: Tensors, sizes: Mapping[str, int]) -> Spec:
    members = [tensors.specs[name] for name in group.memory]
    if len({spec.dtype for spec in members}) != 1:
        raise WeightError(f"{listing(group.memory)} must have one type to be stored as one tensor.")
    shapes = group.transform.disk_shapes([spec.shape for spec in members], sizes)
    return Spec(shapes[0], members[0].dtype)


def _group_of_memory(table: NetworkMap, name: str) -> Group:
    for row in table.rows:
        for template in row.memory_names:
            match = _pattern(template).fullmatch(name)
            if match:
                return _group(row, match.groupdict())
    return Group(name, (name,), TRANSFORMS["same"])


def _group_of_disk(table: NetworkMap, name: str) -> Group:
    for row in table.rows:
        for template in (row.disk, *row.older):
            match = _pattern(template).fullmatch(name)
            if match:
                return _group(row, match.groupdict())
    return Group(name, (name,), TRANSFORMS["same"])


def _group(row: Row, values: dict[str, str]) -> Group:
    memory = tuple(template.format(**values) for template in row.memory_names)
    return Group(row.disk.format(**values), memory, TRANSFORMS[row.transform])


@cache
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    numbers = escaped.replace("{n}", r"(?P<n>\d+)")
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^.]+)", numbers))
