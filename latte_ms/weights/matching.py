"""Which tensor of a file belongs to which parameters of a network; nothing is read or changed."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice

from latte_ms.weights import mapping
from latte_ms.weights.errors import MisfitError
from latte_ms.weights.mapping import TensorGroup
from latte_ms.weights.maps import NetworkMap
from latte_ms.weights.tensors import Naming, Spec

_COMPARED = 2000  # names that are searched for the nearest ones
_SHOWN = 8  # per kind; a wrong network would otherwise print hundreds of lines


@dataclass(frozen=True)
class Match:
    """Tensors of a file against the parameters of a network.

    Attributes:
        pairs: name in the file -> the parameters that this tensor fits.
        missing: names that the file would need.
        unexpected: names in the file that the network has no parameters for.
        mismatched: name in the file -> how its shape or dtype differs.
    """

    pairs: Mapping[str, TensorGroup]
    missing: Collection[str]
    unexpected: Collection[str]
    mismatched: Mapping[str, str]

    def require_exact(self, source: object, advice: str = "") -> None:
        """Raise one MisfitError that names all tensors of `source` that do not fit, if any.

        `advice` is the last line of its message.
        """
        if not (self.missing or self.unexpected or self.mismatched):
            return
        total = len(self.pairs) + len(self.missing) + len(self.mismatched)
        raise MisfitError(
            f"{source} does not fit the network ({len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} wrong "
            f"of {total} tensors):\n" + "\n".join([*self.report(), advice]).rstrip()
        )

    def report(self) -> list[str]:
        """One line per tensor that does not fit, with the names nearest to it."""
        paired = [*self.pairs, *self.mismatched]
        lines = _lines("missing", nearest(self.missing, self.unexpected or paired))
        lines += _lines("unexpected", nearest(self.unexpected, self.missing or paired))
        return lines + _lines("wrong", [f"{name}: {why}" for name, why in self.mismatched.items()])


def match(
    tensors: Mapping[str, Spec],
    naming: Naming,
    parameters: Mapping[str, Spec],
    network_map: NetworkMap,
    sizes: Mapping[str, int],
) -> Match:
    """Compare names, shapes and kinds of dtype (floating-point or not).

    Args:
        tensors: those of a file.
        naming: whose names these are.
        parameters: those of the network, under its names.
        network_map: the map of the network.
        sizes: values of `network_map.sizes`.
    """
    if naming == "disk":
        groups = mapping.groups_of_parameters(network_map, parameters)
        present = {
            name: group.disk for name, group in mapping.groups_of_file(network_map, tensors).items()
        }
    else:
        groups, present = mapping.same_names(parameters), {name: name for name in tensors}
    sources = {disk: name for name, disk in present.items() if disk in groups}
    pairs, mismatched = {}, {}
    for disk, name in sources.items():
        reason = _misfit(tensors[name], groups[disk], parameters, sizes)
        if reason:
            mismatched[name] = reason
        else:
            pairs[name] = groups[disk]
    missing = [disk for disk in groups if disk not in sources]
    used = set(sources.values())
    return Match(pairs, missing, [name for name in tensors if name not in used], mismatched)


def _misfit(
    spec: Spec, group: TensorGroup, parameters: Mapping[str, Spec], sizes: Mapping[str, int]
) -> str:
    """Why a tensor does not fit its parameters; empty if it does."""
    members = [parameters[name] for name in group.memory]
    shapes = group.transform.disk_shapes([member.shape for member in members], sizes)
    if spec.shape not in shapes:
        return f"shape {spec.shape} instead of {shapes[0]}"
    if spec.is_floating != members[0].is_floating:
        return f"dtype {spec.dtype} for a parameter of dtype {members[0].dtype}"
    return ""


def nearest(names: Collection[str], others: Collection[str]) -> list[str]:
    """Names, each with the nearest of `others`; those that are not shown stay as they are."""
    shown, compared = [], list(islice(others, _COMPARED))
    for name in list(names)[:_SHOWN]:
        near = difflib.get_close_matches(name, compared, n=2)
        shown.append(name + (f" (nearest: {', '.join(near)})" if near else ""))
    return [*shown, *list(names)[_SHOWN:]]


def _lines(kind: str, items: list[str]) -> list[str]:
    lines = [f"  {kind}: {item}" for item in items[:_SHOWN]]
    return lines + ([f"  {kind}: and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else [])
