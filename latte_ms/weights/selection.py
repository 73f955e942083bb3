"""Which tensors of a file a network takes: those under a prefix, of its own parts, each once."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latte_ms.messages import shown
from latte_ms.weights import mapping
from latte_ms.weights.errors import WeightError, quoted
from latte_ms.weights.maps import MAPS, NetworkMap
from latte_ms.weights.tensors import Tensors

logger = logging.getLogger(__name__)
_SHOWN = 12  # names in one message
_CHUNK = 1 << 24  # bytes compared at once


class Selection(NamedTuple):
    """Tensors for a network, and the names of a file's other tensors."""

    tensors: Tensors
    left_out: tuple[str, ...]


def select(
    tensors: Tensors, network_map: NetworkMap, prefix: str = "", only_network: bool = False
) -> Selection:
    """What a network takes of a file; `naming` is inferred from the names.

    Left out are names that do not begin with `prefix`, and the other parts of a model that the
    network is a part of. Of two spellings of one tensor, the same in both, one is taken.

    Args:
        tensors: of one entry of a file.
        prefix: the beginning of the network's names, such as "network."; it is removed.
        only_network: leave out everything outside of the network's parts, such as the state of an
            optimizer.
    Raises:
        WeightError: no name begins with `prefix`, or two spellings of one name differ in values.
    """
    names = {name[len(prefix) :]: name for name in tensors if name.startswith(prefix)}
    if not names:
        raise WeightError(
            f"`prefix` (={shown(prefix)}) begins no name. {advice(tensors, network_map)}"
        )
    kept = {
        name: source
        for name, source in names.items()
        if not _outside(name, network_map, only_network)
    }
    if not kept:
        raise WeightError(f"it holds no tensor of the network. {advice(tensors, network_map)}")
    naming = mapping.naming_of_names(kept, network_map) or tensors.naming
    chosen = tensors.renamed(kept, naming)
    if naming == "disk":
        chosen = _each_once(chosen, network_map)
    taken = set(kept.values())
    return Selection(chosen, tuple(name for name in tensors if name not in taken))


def advice(names: Collection[str], network_map: NetworkMap | None = None, prefix: str = "") -> str:
    """A sentence that says which choice would load a file of these names; empty for none.

    Args:
        names: those of the file, without `prefix` where one was given.
        network_map: that of the network, where it is known.
    """
    maps = list(MAPS.values()) if network_map is None else [network_map]
    prefixes = [prefix + found for found in _prefixes(names, maps)]
    if prefixes:
        return f"Names of the network begin with {quoted(prefixes)}: give that as `prefix`."
    for known in maps:
        outside = [n for n in names if _outside(n, known, True) and not _outside(n, known, False)]
        if outside and mapping.identifies(known, names):
            return (
                f"{len(outside)} tensors are no part of the network, such as "
                f"{quoted(outside[:3])}: `only_network` leaves them out."
            )
    return ""


def report_left_out(path: str | Path, names: Collection[str]) -> None:
    """Log the names of a file that a network does not take, shortened where there are many."""
    if names:
        logger.warning("%s: %s", path, left_out(names))


def left_out(names: Collection[str]) -> str:
    """A text about names that are left out, of bounded length."""
    listed = quoted(list(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensors are left out: {listed}{more}"


def _outside(name: str, network_map: NetworkMap, only_network: bool) -> bool:
    head = name.partition(".")[0]
    if name in network_map.constants or head in network_map.other_parts:
        return True
    return only_network and head not in network_map.parts


def _prefixes(names: Collection[str], maps: Iterable[NetworkMap]) -> list[str]:
    """Prefixes under which names identify a network; none where they need no prefix."""
    known = list(maps)
    if any(mapping.identifies(one, names) for one in known):
        return []
    found = set()
    for one in known:
        for mark in one.identified_by[:1]:
            ends = [name for name in names if name.endswith("." + mark)]
            found |= {end[: -len(mark)] for end in ends if _identified(one, names, end, mark)}
    # The moments of an optimizer have the network's names after a prefix of their own.
    shortest = [p for p in found if not any(p != q and p.endswith("." + q) for q in found)]
    return sorted(shortest, key=lambda prefix: (len(prefix), prefix))[:4]


def _identified(network_map: NetworkMap, names: Collection[str], end: str, mark: str) -> bool:
    prefix = end[: -len(mark)]
    inner = {name[len(prefix) :] for name in names if name.startswith(prefix)}
    return mapping.identifies(network_map, inner)


def _each_once(tensors: Tensors, network_map: NetworkMap) -> Tensors:
    """Without the second of two spellings; raises WeightError where their values differ."""
    spellings: dict[str, list[str]] = {}
    for name, group in mapping.groups_of_file(network_map, tensors).items():
        spellings.setdefault(group.disk, []).append(name)
    chosen: dict[str, str] = {}
    for disk, same in spellings.items():
        first = disk if disk in same else same[0]
        for other in same:
            if other != first and not _equal(tensors, first, other):
                raise WeightError(
                    f"`{first}` and `{other}` are two names of one tensor, and differ in values."
                )
        chosen[first] = first
    return tensors.renamed(chosen) if len(chosen) < len(tensors) else tensors


def _equal(tensors: Tensors, first: str, second: str) -> bool:
    """Whether two tensors have the same shape, dtype and bytes."""
    if tensors.specs[first] != tensors.specs[second]:
        return False
    a, b = (np.frombuffer(tensors.data(name), np.uint8) for name in (first, second))
    return all(
        np.array_equal(a[at : at + _CHUNK], b[at : at + _CHUNK]) for at in range(0, len(a), _CHUNK)
    )


def select_by_names(
    tensors: Tensors, prefix: str, only_network: bool
) -> tuple[Selection, NetworkMap | None]:
    """`select` for the network that the names of a file tell, and its map.

    Tensors of an unknown network are taken as they are. Raises WeightError where a choice is given
    for those.
    """
    names = [name[len(prefix) :] for name in tensors if name.startswith(prefix)]
    network_map = mapping.map_of_names(names)
    if network_map is not None:
        return select(tensors, network_map, prefix, only_network), network_map
    if prefix or only_network:
        raise WeightError(
            "`prefix` and `only_network` need the names of a known network "
            f"({quoted(MAPS)}). {advice(tensors)}".rstrip()
        )
    return Selection(tensors, ()), None
