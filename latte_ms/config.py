"""Reads YAML recipes and `key=value` overrides into frozen dataclasses, strictly.

A recipe may build on another one: its key `base` names a file, relative to the recipe's own folder,
whose keys it inherits. Nested keys are merged, lists are replaced, overrides are applied last.
`${here}` in a value is the folder of the recipe that says it.

A dataclass that several configurations share can be a field made by `inline`: its keys are then
written on the level of its owner, without a section of their own.

Also reads and writes the config.json files that are stored with the weights of a network.
"""

import argparse
import dataclasses
import difflib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from latte_ms.atomic import atomic_file
from latte_ms.extras import MissingExtraError
from latte_ms.recipes import find_recipe, with_folder

T = TypeVar("T")

BASE = "base"  # the key of a recipe that names the recipe it builds on
_FLAT_SCHEMAS: dict[Any, Any] = {}  # by schema: OmegaConf needs the same type each time


def read_json(path: str | Path) -> dict[str, Any]:
    """The fields of a config.json. Raises ValueError for a file that holds something else."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object of fields, got {type(values).__name__}.")
    return values


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a config.json with its fields in alphabetical order."""
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def inline(schema: type[T]) -> T:
    """A dataclass field of type `schema` whose keys stand on the level of the field's owner.

    `options: Options = inline(Options)` lets a recipe say `num_steps: 50` for `options.num_steps`.
    The defaults are those of `schema`. Its keys must differ from the owner's.
    """
    field: T = dataclasses.field(default_factory=schema, metadata={"inline": True})
    return field


def load(schema: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read the recipe `path`, with its bases, and apply `key=value` overrides.

    Args:
        schema: a dataclass, possibly nested.
        overrides: dots in a key lead into nested fields.
    Raises:
        ValueError: an unknown key (with the nearest names), a missing required field, a value of
            another type, or a base that is missing or leads back to the recipe.
        FileNotFoundError: `path` is not a file.
    """
    return from_dict(schema, read_recipe(path, overrides))


def read_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[Any, Any]:
    """The keys of a recipe and its bases under the overrides, as `load` reads them, unchecked."""
    with _translate_omegaconf_errors():
        recipe = OmegaConf.create({}) if path is None else _read(find_recipe(path))
        merged = OmegaConf.merge(recipe, *map(_override, overrides))
        values = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(values, dict)
    return values


def from_dict(schema: type[T], values: dict[Any, Any]) -> T:
    """Build the dataclass `schema` from nested dictionaries, as strictly as `load`.

    `schema` may have an optional static method `fill(values) -> values`. It is called once the keys
    are known to be valid and before defaults are applied, and adds keys that follow from others.
    """
    flat = _flat_schema(schema)
    errors = list(_config_errors(flat, values, sorted(_paths(flat))))
    if errors:
        raise ValueError(" ".join(errors))
    fill = getattr(schema, "fill", None)
    with _translate_omegaconf_errors():
        values = values if fill is None else fill(values)
        structured = OmegaConf.merge(OmegaConf.structured(flat), OmegaConf.create(values))
        missing = OmegaConf.missing_keys(structured)
        if missing:
            raise ValueError(f"Missing required keys: {', '.join(sorted(missing))}.")
        for key, number in _floats(OmegaConf.to_container(structured)):
            if not math.isfinite(number):
                raise ValueError(f"`{key}` must be a finite number, got {number}.")
        built = _nested(schema, OmegaConf.to_object(structured))
    assert isinstance(built, schema)
    return built


def to_yaml(config: Any) -> str:
    """The whole resolved configuration, as `load` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(_flattened(config)))


def parse(schema: type[T], arguments: list[str] | None, description: str | None) -> T:
    """Read the command line `--config FILE [key=value ...]` that all scripts share.

    `--dry-run` prints the whole configuration and ends the program. An error in the configuration
    ends it with status 2 and a message that describes the error.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as loop.seed=1")
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and stop")
    options = parser.parse_intermixed_args(arguments)  # overrides on both sides of an option
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with exit_on_error():
        config = load(schema, options.config, options.overrides)
    if options.dry_run:
        print(to_yaml(config), end="")
        parser.exit(0)
    return config


@contextmanager
def exit_on_error(*others: type[Exception]) -> Iterator[None]:
    """Print the message of an error in the input and end the program with status 2.

    Errors in the input are ValueError, OSError, a missing extra and `others`.
    """
    expected: tuple[type[Exception], ...] = (ValueError, OSError, MissingExtraError, *others)
    try:
        yield
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _read(path: Path, above: tuple[Path, ...] = ()) -> DictConfig:
    """A recipe merged over its bases; `above` are the recipes that build on it."""
    if not path.is_file():
        if above:
            raise ValueError(f"`{BASE}` of {above[-1]} is not a file: {path}.")
        raise FileNotFoundError(f"`--config` is not a file: {path}.")
    try:
        recipe = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{_origin(path, above)} is not valid YAML: {path}: {error}") from error
    if not isinstance(recipe, DictConfig):
        raise ValueError(f"{_origin(path, above)} must hold keys and values, got a list: {path}.")
    recipe = OmegaConf.create(with_folder(OmegaConf.to_container(recipe), path.parent))
    if BASE not in recipe:
        return recipe
    base = recipe.pop(BASE)
    if not isinstance(base, str) or not base:
        raise ValueError(f"`{BASE}` of {path} must be the name of a file, got {base!r}.")
    chain = (*above, path)
    target = path.parent / base
    if target.resolve() in [member.resolve() for member in chain]:
        names = " -> ".join(str(member) for member in (*chain, target))
        raise ValueError(f"`{BASE}` must not lead back to the same recipe: {names}.")
    merged = OmegaConf.merge(_read(target, chain), recipe)
    assert isinstance(merged, DictConfig)
    return merged


def _origin(path: Path, above: tuple[Path, ...]) -> str:
    """The key or argument that names the recipe `path`, for messages."""
    return f"`{BASE}` of {above[-1]}" if above else "`--config`"


def _override(item: str) -> DictConfig:
    key, equals, _ = item.partition("=")
    if not (key and equals):
        raise ValueError(f"An override has the form key=value, got {item!r}.")
    try:
        return OmegaConf.from_dotlist([item])
    except YAMLError as error:
        raise ValueError(f"The value of an override is not valid YAML: {item!r}.") from error


@contextmanager
def _translate_omegaconf_errors() -> Iterator[None]:
    """Turn OmegaConf's errors into ValueError with the full name of the key."""
    try:
        yield
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        key = getattr(error, "full_key", None)
        raise ValueError(f"`{key}`: {message}" if key else message) from error


def _flat_schema(schema: type) -> type:
    """`schema` with the keys of its inline fields in their place; itself where it has none."""
    if schema not in _FLAT_SCHEMAS:
        fields = list(_flat_fields(schema))
        names = [name for name, *_ in fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TypeError(f"{schema.__name__} declares {', '.join(twice)} more than once.")
        hints = get_type_hints(schema)
        same = all(name in hints and hints[name] is hint for name, hint, _ in fields)
        flat = dataclasses.make_dataclass(schema.__name__, fields, kw_only=True)
        _FLAT_SCHEMAS[schema] = schema if same else flat
    flat_schema: type = _FLAT_SCHEMAS[schema]
    return flat_schema


def _flat_fields(schema: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and `dataclasses.field` of each key on the level of `schema`."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        default: Any = dataclasses.field(default=field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = dataclasses.field(
                default_factory=partial(_flat_default, field.default_factory)
            )
        if _is_inline(field):
            yield from _flat_fields(hint)
        else:
            yield field.name, _flat_schema(hint) if _is_section(hint) else hint, default


def _flat_default(factory: Callable[[], Any]) -> Any:
    return _flattened(factory())


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _is_inline(field: "dataclasses.Field[Any]") -> bool:
    return bool(field.metadata.get("inline", False))


def _nested(schema: type, flat: Any) -> Any:
    """An object of `schema` from one of its flat schema."""
    if isinstance(flat, schema):
        return flat
    hints, values = get_type_hints(schema), {}
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        part = flat if _is_inline(field) else getattr(flat, field.name)
        values[field.name] = _nested(hint, part) if _is_section(hint) else part
    return schema(**values)


def _flattened(value: Any) -> Any:
    """A dataclass object as one of its flat schema; any other value as it is."""
    if not dataclasses.is_dataclass(value) or _flat_schema(type(value)) is type(value):
        return value
    values: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        part = _flattened(getattr(value, field.name))
        if _is_inline(field):
            values |= {inner.name: getattr(part, inner.name) for inner in dataclasses.fields(part)}
        else:
            values[field.name] = part
    return _flat_schema(type(value))(**values)


def _paths(schema: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
        yield name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _paths(hints[field.name], f"{name}.")


def _config_errors(
    schema: type, values: dict[Any, Any], known: list[str], prefix: str = ""
) -> Iterator[str]:
    """A sentence for each unknown key, and for each section or list that is a single value."""
    hints = get_type_hints(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            yield f"Unknown key {name!r}." + (f" Nearest: {', '.join(near)}." if near else "")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                yield from _config_errors(hints[key], value, known, f"{name}.")
            elif value != MISSING:
                yield f"`{name}` must hold keys and values, got {value!r}."
        elif _takes_list(hints[key], value) and value != MISSING:
            yield f"`{name}` must be a list such as [{value}], got {value!r}."


def _takes_list(hint: Any, value: Any) -> bool:
    """Whether a field of type `hint` needs a list but `value` is not one; None may be allowed."""
    options = get_args(hint) if type(None) in get_args(hint) else (hint,)
    is_list = any(get_origin(option) in (list, tuple) for option in options)
    allowed = value is None and type(None) in options
    return is_list and not (allowed or isinstance(value, list | tuple))


def _floats(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The floats in nested dictionaries and lists, each with its full key."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _floats(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _floats(part, f"{name}[{i}]")
