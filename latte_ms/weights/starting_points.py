"""Weights of a network that resembles ours, as a starting point: what fits is taken.

A key of the file is loaded where name and shape fit. Loaded into a `Latte` with a table of temporal
positions, a file without one is an image network, DiT: its blocks become the spatial and the
temporal blocks in their order, and its labels, those of other classes, are left out. A `Latte` with
rotary positions has no such table, so that there a file's labels are loaded where they fit.
`LatteT2V` takes PixArt-alpha's network of images as its spatial half.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn

from latte_ms.layers import positions
from latte_ms.weights import mapping
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.mapping import TensorGroup
from latte_ms.weights.matching import Match, match
from latte_ms.weights.network import assign, parameters_of, read_selection, sizes_of, specs_of
from latte_ms.weights.tensors import Spec

SPATIAL, TEMPORAL, LABELS = "pos_embed", "temp_embed", "y_embedder.embedding_table.weight"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class PartialLoad:
    """What became of the tensors of a file and of a network, by their names on disk.

    Attributes:
        loaded: from the file.
        recomputed: tables of positions of another size -> their shapes in the file and here.
        kept: the network's own initial values.
        left_out: tensors of the file -> why.
    """

    loaded: tuple[str, ...]
    recomputed: Mapping[str, str]
    kept: tuple[str, ...]
    left_out: Mapping[str, str]

    def report(self) -> list[str]:
        """One line per tensor, or per group of tensors that differ in the number of their block."""
        lines = [f"loaded: {line}" for line in grouped(self.loaded)]
        lines += [f"recomputed: {name}: {sizes}" for name, sizes in self.recomputed.items()]
        lines += [f"kept as initialised: {line}" for line in grouped(self.kept)]
        reasons = dict.fromkeys(self.left_out.values())
        for reason in reasons:
            names = [name for name, why in self.left_out.items() if why == reason]
            lines += [f"left out: {line}: {reason}" for line in grouped(names)]
        return lines


def load_partly(
    cell: nn.Cell,
    path: str | Path,
    entry: str | None = "ema",
    prefix: str = "",
    only_network: bool = False,
) -> PartialLoad:
    """Fill those parameters of `cell` that a file has; the others keep their values.

    Tables of positions of another size are computed anew: the positions of the network are spread
    over those of the file, so that a place in the frame, or in the clip, keeps its meaning.

    Args:
        cell: `Latte` or `LatteT2V`, initialised.
        path, entry, prefix, only_network: as in `load`.
    Returns:
        What was done with every tensor.
    Raises:
        WeightError: the file cannot be read, no tensor fits, or its values are not finite; nothing
            is changed then.
    """
    network_map = mapping.map_of(cell)
    tensors, outside = read_selection(path, entry, network_map, None, prefix, only_network)
    targets = parameters_of(cell, network_map, None)
    found = match(
        tensors.specs, tensors.naming, specs_of(targets), network_map, sizes_of(cell, network_map)
    )
    pairs = dict(found.pairs)
    left_out = dict.fromkeys(outside, "no part of the network")
    left_out |= dict.fromkeys(found.unexpected, "the network has no such tensor")
    left_out |= dict(found.mismatched)
    if _is_image_network(cell, tensors):
        for name in [name for name in tensors if _disk_name(name, pairs) == LABELS]:
            pairs.pop(name, None)
            left_out[name] = "its classes are those of another data set"
    if not pairs:
        raise WeightError(f"{path} has no tensor that fits the network.")
    tensors.verify()
    with located(path):
        assign(tensors, pairs, targets)
    resized = _recompute_positions(cell, found, tensors.specs, targets)
    done = {group.disk for group in pairs.values()} | resized.keys()
    kept = [name for name in mapping.groups_of_parameters(network_map, targets) if name not in done]
    left_out = {name: why for name, why in left_out.items() if name not in resized}
    return PartialLoad(tuple(g.disk for g in pairs.values()), resized, tuple(kept), left_out)


def grouped(names: Iterable[str]) -> list[str]:
    """Names, in their order, with those that differ in one number of a block as one text.

    blocks.0.attn.proj.bias and blocks.1.attn.proj.bias are `blocks.{0-1}.attn.proj.bias`.
    """
    numbers: dict[str, list[int]] = {}
    for name in names:
        number = _NUMBER.search(name)
        pattern = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
        numbers.setdefault(pattern, [])
        if number is not None:
            numbers[pattern].append(int(number[0]))
    return [
        pattern.replace("{}", f"{{{_ranges(found)}}}" if len(found) > 1 else str(*found))
        for pattern, found in numbers.items()
    ]


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers such as 0-3,8."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, part)) for part in ranges)


def _is_image_network(cell: nn.Cell, names: Iterable[str]) -> bool:
    """Whether names without temporal positions are loaded into a `Latte` that has them."""
    tables = hasattr(cell, "y_embedder") and hasattr(cell, TEMPORAL)
    return tables and TEMPORAL not in set(names)


def _disk_name(name: str, pairs: Mapping[str, TensorGroup]) -> str:
    return pairs[name].disk if name in pairs else name


def _recompute_positions(
    cell: nn.Cell,
    found: Match,
    specs: Mapping[str, Spec],
    targets: Mapping[str, Parameter],
) -> dict[str, str]:
    """Fill the tables of positions whose size differs; returns the sizes by name."""
    resized = {}
    for name in (SPATIAL, TEMPORAL):
        if name in found.mismatched and hasattr(cell, name):
            source, target = specs[name].shape, targets[name].shape
            if not _is_table(name, source) or source[-1] != target[-1]:
                continue
            table = _table(name, source[1], target[1], target[2])
            targets[name].set_data(Tensor(table[None].astype(np.float32)))
            resized[name] = f"{source} to {target}, spread over the same range"
    return resized


def _is_table(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a shape is (1, F, D) of frames, or (1, N, D) of the tokens of a square frame."""
    if len(shape) != 3 or 0 in shape:
        return False
    return name == TEMPORAL or math.isqrt(shape[1]) ** 2 == shape[1]


def _table(name: str, before: int, now: int, channels: int) -> np.ndarray:
    """Positions of `now` places among `before`: frames, or the tokens of a square frame."""
    if name == TEMPORAL:
        return positions.sincos_1d(channels, positions.spread(now, before))
    side, base = math.isqrt(now), math.isqrt(before)
    grid = positions.spread(side, base)
    return positions.sincos_2d(channels, grid, grid)
