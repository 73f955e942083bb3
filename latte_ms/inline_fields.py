"""Dataclasses that several configurations share, with their keys on the level of their owner.

A field made by `inline` has no section of its own in a recipe.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")
_FLAT_SCHEMAS: dict[Any, Any] = {}  # by schema: OmegaConf needs the same type each time


def inline(schema: type[T]) -> T:
    """A dataclass field of type `schema` whose keys stand on the level of the field's owner.

    `options: Options = inline(Options)` lets a recipe say `num_steps: 50` for `options.num_steps`.
    The defaults are those of `schema`. Its keys must differ from the owner's.
    """
    field: T = dataclasses.field(default_factory=schema, metadata={"inline": True})
    return field


def flat_schema(schema: type) -> type:
    """`schema` with the keys of its inline fields in their place; itself where it has none."""
    if schema not in _FLAT_SCHEMAS:
        fields = list(_flat_fields(schema))
        names = [name for name, *_ in fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TypeError(f"{schema.__name__} declares {', '.join(twice)} more than once.")
        hints = get_type_hints(schema)
        same = all(name in hints and hints[name] is hint for name, hint, _ in fields)
        made = dataclasses.make_dataclass(schema.__name__, fields, kw_only=True)
        _FLAT_SCHEMAS[schema] = schema if same else made
    flat: type = _FLAT_SCHEMAS[schema]
    return flat


def _flat_fields(schema: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and `dataclasses.field` of each key on the level of `schema`."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        default: Any = dataclasses.field(default=field.default, metadata=field.metadata)
        if field.default_factory is not dataclasses.MISSING:
            default = dataclasses.field(
                default_factory=partial(_flat_default, field.default_factory)
            )
        if _is_inline(field):
            yield from _flat_fields(hint)
        else:
            yield field.name, flat_schema(hint) if _is_section(hint) else hint, default


def _flat_default(factory: Callable[[], Any]) -> Any:
    return flattened(factory())


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _is_inline(field: "dataclasses.Field[Any]") -> bool:
    return bool(field.metadata.get("inline", False))


def nested(schema: type, flat: Any) -> Any:
    """An object of `schema` from one of its flat schema."""
    if isinstance(flat, schema):
        return flat
    hints, values = get_type_hints(schema), {}
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        part = flat if _is_inline(field) else getattr(flat, field.name)
        values[field.name] = nested(hint, part) if _is_section(hint) else part
    return schema(**values)


def flattened(value: Any) -> Any:
    """A dataclass object as one of its flat schema; any other value as it is."""
    if not dataclasses.is_dataclass(value) or flat_schema(type(value)) is type(value):
        return value
    values: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        part = flattened(getattr(value, field.name))
        if _is_inline(field):
            values |= {inner.name: getattr(part, inner.name) for inner in dataclasses.fields(part)}
        else:
            values[field.name] = part
    return flat_schema(type(value))(**values)
