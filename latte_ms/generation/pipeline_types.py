"""In which types the networks of a pipeline compute, and keep their weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import mindspore as ms

from latte_ms.weights.pretrained import check_dtype

NETWORKS = ("text_encoder", "vae", "transformer")
Types: TypeAlias = ms.Type | Mapping[str, ms.Type] | None


@dataclass(frozen=True)
class Precision:
    """Types of one network."""

    products: ms.Type = ms.float32
    storage: ms.Type | None = None  # of the weights; None: as `products`, or as they lie on disk


def precisions(
    products: Types, storage: Types, streamed: bool, wanted: Collection[str] = NETWORKS
) -> dict[str, Precision]:
    """The types of the networks among the components `wanted`.

    Args:
        products, storage: `mindspore_dtype` and `storage_dtype` of `from_pretrained`.
        streamed: weights of the text encoder stay on disk as they are; the storage of all networks
            does not apply to them.
    Raises:
        ValueError: a type or a component is unknown, this backend cannot compute in a type, or
            `storage` has one for streamed weights.
    """
    for argument, types in (("mindspore_dtype", products), ("storage_dtype", storage)):
        _check(argument, types)
    if streamed and isinstance(storage, Mapping) and storage.get("text_encoder") is not None:
        raise ValueError(
            '`storage_dtype` must have no "text_encoder" beside `streamed_text_encoder`, whose '
            f"weights stay on disk as they are, got {storage['text_encoder']!r}."
        )
    found = {}
    for name in NETWORKS:
        if name not in wanted:
            continue
        kept = None if streamed and name == "text_encoder" else _of(storage, name)
        found[name] = Precision(_of(products, name) or ms.float32, kept)
        check_dtype("mindspore_dtype", found[name].products, computes=True)
    if "text_encoder" in found and (kept := found["text_encoder"].storage) is not None:
        # Its table of tokens is looked up in the type that it is kept in.
        check_dtype('storage_dtype["text_encoder"]', kept, computes=True)
    return found


def _check(argument: str, types: Types) -> None:
    if isinstance(types, Mapping):
        known = [*NETWORKS, "default"]
        unknown = [name for name in types if name not in known]
        if unknown:
            raise ValueError(f"`{argument}` must have some of the keys {known}, got {unknown}.")
        named: dict[str, Any] = {f'{argument}["{name}"]': types[name] for name in types}
    else:
        named = {argument: types}
    for name, value in named.items():
        if value is not None:
            check_dtype(name, value)


def _of(types: Types, name: str) -> ms.Type | None:
    if isinstance(types, Mapping):
        return types.get(name, types.get("default"))
    return types
