"""What a checkpoint holds: named entries (`model`, `ema`) of named tensors, without wrappers."""

import re
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, TypeVar

from latte_ms.messages import one_line, shown
from latte_ms.weights.errors import WeightError, quoted

T = TypeVar("T")

UNNAMED = ""  # the entry of a file that is one bare state dict
# Left by torch's DistributedDataParallel and torch.compile; the latter may sit on inner modules.
_WRAPPER, _COMPILED = re.compile(r"(?:module\.)+"), "_orig_mod."
# Attribute names in PyTorch Lightning's training modules: `model.blocks...`, `ema.blocks...`.
_LIGHTNING = ("model", "ema", "vae")
_STATE_DICT = "state_dict"
# Keys under which training scripts save a network's weights.
_NETWORK_KEYS = {_STATE_DICT, "model_state_dict", "model", "ema", "module", "network", "params"}
_LONGEST_NAME = 1 << 10  # characters; of a tensor
_SHOWN = 8  # keys in a message


def split_entries(root: Any, tensor_type: type[T]) -> dict[str, dict[str, T]]:
    """Entries of an unpickled checkpoint: {entry: {name: tensor}}.

    A bare state dict is the entry `UNNAMED`. Dictionaries in it that hold tensors are entries.
    """
    if not isinstance(root, Mapping):
        raise WeightError(f"it holds a {type(root).__name__}, not a dictionary of tensors.")
    bare = _tensors(root, tensor_type)
    nested = {
        str(key): tensors
        for key, value in root.items()
        if isinstance(value, Mapping) and (tensors := _tensors(value, tensor_type))
    }
    if (
        bare and not nested.keys() & _NETWORK_KEYS
    ):  # else `bare` is a counter or the like beside them
        return by_prefix(bare)
    entries: dict[str, dict[str, T]] = {}
    for key, tensors in nested.items():
        if key == _STATE_DICT:
            entries.update(by_prefix(tensors))
        else:
            entries[key] = unwrapped(tensors)
    if not entries:
        keys = [one_line(key, 80) for key in islice(root, _SHOWN)]
        rest = f" and {len(root) - _SHOWN} more" if len(root) > _SHOWN else ""
        raise WeightError(f"it holds no tensors; its keys are {quoted(keys)}{rest}.")
    return entries


def by_prefix(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """One entry per Lightning attribute where every name begins with one; else `UNNAMED`.

    A lone `model.` before all names is a wrapper's attribute, and is only removed.
    """
    plain = unwrapped(tensors)
    heads = {name.partition(".")[0] for name in plain}
    if not heads <= set(_LIGHTNING):
        return {UNNAMED: plain}
    if heads == {"model"}:
        return {UNNAMED: unwrapped({name.partition(".")[2]: t for name, t in plain.items()})}
    groups: dict[str, dict[str, T]] = {}
    for name, tensor in plain.items():
        head, _, rest = name.partition(".")
        groups.setdefault(head, {})[rest] = tensor
    return {head: unwrapped(group) for head, group in groups.items()}


def unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """Names without `module.` at the beginning and `_orig_mod.` anywhere."""
    result: dict[str, T] = {}
    for name, tensor in tensors.items():
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise WeightError(f"it is damaged: {shown(name)} is no name of a tensor.")
        short = name.replace(_COMPILED, "")
        if wrapper := _WRAPPER.match(short):
            short = short[wrapper.end() :]
        if short in result:
            raise WeightError(f"it holds `{short}` twice, with and without a wrapper's prefix.")
        result[short] = tensor
    return result


def choose(entries: Collection[str], entry: str | None) -> str:
    """The name of the requested entry; a lone unnamed one serves every name.

    `entry` None means the only one. Raises a WeightError that lists the entries.
    """
    if entry is not None and entry in entries:
        return entry
    if len(entries) == 1 and (entry is None or UNNAMED in entries):
        return next(iter(entries))
    known = quoted(name or "(unnamed)" for name in entries)
    if entry is None:
        raise WeightError(f"`entry` must be one of the entries {known}.")
    raise WeightError(f"`entry` (={shown(entry)}) must be one of the entries {known}.")


def _tensors(values: Mapping[Any, Any], tensor_type: type[T]) -> dict[str, T]:
    return {
        str(name): value
        for name, value in values.items()
        if isinstance(value, tensor_type) and isinstance(name, str | int)
    }
