"""Reads YAML recipes and `key=value` overrides into frozen dataclasses, strictly.

A recipe may build on another one: its key `base` names a file, relative to the recipe's own folder,
whose keys it inherits. Nested keys are merged, lists are replaced, overrides are applied last.
`${here}` in a value is the folder of the recipe that says it.

Also reads and writes the config.json files that are stored with the weights of a network.
"""

import argparse
import dataclasses
import difflib
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from latte_ms import inline_fields, terminal, yaml_text
from latte_ms.atomic import atomic_file
from latte_ms.extras import MissingExtraError
from latte_ms.inline_fields import inline as inline
from latte_ms.messages import one_line, shown
from latte_ms.options import without_aliases
from latte_ms.recipes import find_recipe, with_folder

T = TypeVar("T")

BASE = "base"  # the key of a recipe that names the recipe it builds on
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_MAX_JSON_BYTES = 1 << 26  # bytes: an index of the weights of a large network has 1 << 20
_MAX_ERRORS = 5  # unknown keys and the like that one message names
_LONGEST_KEY = 100  # characters for which near names are searched


def read_json(path: str | Path) -> dict[str, Any]:
    """The fields of a JSON file, such as a config.json.

    Raises ValueError for a file that holds something else, or more than `_MAX_JSON_BYTES` bytes.
    """
    size = Path(path).stat().st_size
    if size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_JSON_BYTES} bytes, got {size}.")
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {one_line(error)}.") from error
    except RecursionError:
        raise ValueError(f"{path} must hold JSON that is nested less deeply.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object of fields, got {type(values).__name__}.")
    return values


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a config.json with its fields in alphabetical order."""
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    return from_dict(schema, read_recipe(path, overrides, inline_fields.flat_schema(schema)))


def read_recipe(
    path: str | Path | None, overrides: Sequence[str] = (), schema: type | None = None
) -> dict[Any, Any]:
    """The keys of a recipe and its bases under the overrides, unchecked, as `from_dict` takes them.

    Plain scalars are as written. Aliases of the fields of `schema` are replaced by their names.
    """
    values = {} if path is None else _read(schema, find_recipe(path))
    for item in overrides:
        values = _merged(values, _renamed(schema, _override(item)))
    return yaml_text.resolve_references(values)


def from_dict(schema: type[T], values: dict[Any, Any]) -> T:
    """Build the dataclass `schema` from nested dictionaries, as strictly as `load`.

    `schema` may have an optional static method `fill(values) -> values`. It is called once the keys
    are known to be valid and before defaults are applied, and adds keys that follow from others.
    Another one, `choose(values) -> schema`, is called first and names the subclass to build.
    """
    choose = getattr(schema, "choose", None)
    schema = schema if choose is None else choose(values)
    flat = inline_fields.flat_schema(schema)
    errors = list(islice(_config_errors(flat, values, sorted(_key_names(flat))), _MAX_ERRORS))
    if errors:
        raise ValueError(" ".join(errors))
    values = _typed(flat, values)
    fill = getattr(schema, "fill", None)
    with _translate_omegaconf_errors():
        values = values if fill is None else fill(values)
        structured = OmegaConf.merge(OmegaConf.structured(flat), OmegaConf.create(values))
        stated = {key for key, value in _leaves(values) if value == MISSING}
        missing = OmegaConf.missing_keys(structured) | stated
        if missing:
            raise ValueError(f"Missing required keys: {', '.join(sorted(missing))}.")
        for key, value in _leaves(OmegaConf.to_container(structured)):
            _check_leaf(key, value)
        built = inline_fields.nested(schema, OmegaConf.to_object(structured))
    assert isinstance(built, schema)
    return built


def to_yaml(config: Any) -> str:
    """The whole resolved configuration, as `load` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(inline_fields.flattened(config)))


def parse(
    schema: type[T],
    arguments: list[str] | None,
    description: str | None,
    check: Callable[[T], None] | None = None,
    default: str | None = None,
) -> T:
    """Read the command line `--config FILE [key=value ...]` that all scripts share.

    `default` is the recipe of a command line without `--config`; None: it must name one.
    `--dry-run` prints the whole configuration, calls `check` with it and ends the program. An error
    in the configuration, or in `check`, ends it with status 2 and a message that describes it.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown_default = "" if default is None else f" (default: {default})"
    parser.add_argument(
        "--config",
        required=default is None,
        default=default,
        metavar="FILE",
        help=f"YAML recipe{shown_default}",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as loop.seed=1")
    dry = "print the configuration and stop"
    if check is not None:
        dry = "print the configuration, check it with the data and one batch, write nothing, stop"
    parser.add_argument("--dry-run", action="store_true", help=dry)
    options = parser.parse_intermixed_args(arguments)  # overrides on both sides of an option
    terminal.protect_streams()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with exit_on_error():
        config = load(schema, options.config, options.overrides)
    if options.dry_run:
        with exit_on_error():
            terminal.print_result(to_yaml(config))
            if check is not None:
                check(config)
        parser.exit(0)
    return config


@contextmanager
def exit_on_error(*others: type[Exception]) -> Iterator[None]:
    """Print an error in the input on one line and end the program with status 2.

    Errors in the input are ValueError, OSError, a missing extra and `others`.
    """
    expected: tuple[type[Exception], ...] = (ValueError, OSError, MissingExtraError, *others)
    try:
        yield
    except expected as error:
        message: Any = error
        if isinstance(error, UnicodeEncodeError):
            message = (
                f"{shown(error.object)} cannot be expressed in the encoding of this process "
                f"({sys.getfilesystemencoding()}): set the environment variable PYTHONUTF8=1."
            )
        terminal.say(f"error: {one_line(message)}", error=True)
        sys.exit(2)


def _read(schema: type | None, path: Path, above: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """A recipe merged over its bases; `above` are the recipes that build on it."""
    if not path.is_file():
        if above:
            raise ValueError(f"`{BASE}` of {above[-1]} is not a file: {path}.")
        raise FileNotFoundError(f"`--config` is not a file: {path}.")
    with path.open("rb") as file:
        content = file.read(yaml_text.MAX_BYTES + 1)
    try:
        recipe = yaml_text.load_bytes(content)
    except yaml_text.YamlError as error:
        raise ValueError(f"{_origin(path, above)} is not valid YAML: {path}: {error}.") from error
    recipe = {} if recipe is None or recipe == "" else recipe
    if not isinstance(recipe, dict):
        kind = "a list" if isinstance(recipe, list) else shown(recipe)
        raise ValueError(f"{_origin(path, above)} must hold keys and values, got {kind}: {path}.")
    recipe = with_folder(_renamed(schema, recipe), path.parent)
    if BASE not in recipe:
        return recipe
    base = recipe.pop(BASE)
    if not isinstance(base, str) or not isinstance(yaml_text.scalar(base), str):
        value = yaml_text.scalar(base) if isinstance(base, str) else base
        raise ValueError(f"`{BASE}` of {path} must be the name of a file, got {shown(value)}.")
    chain = (*above, path)
    target = path.parent / base
    if target.resolve() in [member.resolve() for member in chain]:
        names = " -> ".join(str(member) for member in (*chain, target))
        raise ValueError(f"`{BASE}` must not lead back to the same recipe: {names}.")
    return _merged(_read(schema, target, chain), recipe)


def _renamed(schema: type | None, values: dict[Any, Any]) -> dict[Any, Any]:
    return values if schema is None else without_aliases(schema, values)


def _merged(below: dict[Any, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of both; those of `above` win, and sections are merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged


def _origin(path: Path, above: tuple[Path, ...]) -> str:
    """The key or argument that names the recipe `path`, for messages."""
    return f"`{BASE}` of {above[-1]}" if above else "`--config`"


def _override(item: str) -> dict[Any, Any]:
    key, equals, text = item.partition("=")
    text.encode()  # UnicodeEncodeError for bytes that the locale could not decode
    if not (_KEY.fullmatch(key) and equals):
        raise ValueError(f"An override has the form key=value, got {shown(item)}.")
    try:
        value = yaml_text.load_text(text)
    except yaml_text.YamlError as error:
        raise ValueError(
            f"The value of an override is not valid YAML: {shown(item)}: {error}."
        ) from error
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


@contextmanager
def _translate_omegaconf_errors() -> Iterator[None]:
    """Turn OmegaConf's errors into ValueError with the full name of the key."""
    try:
        yield
    except OmegaConfBaseException as error:
        message = one_line(str(error).splitlines()[0], 300)
        key = getattr(error, "full_key", None)
        raise ValueError(f"`{key}`: {message}" if key else message) from error


def _key_names(schema: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
        yield name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _key_names(hints[field.name], f"{name}.")


def _config_errors(
    schema: type, values: dict[Any, Any], known: list[str], prefix: str = ""
) -> Iterator[str]:
    """A sentence for each unknown key, and for each value of the wrong kind."""
    hints = get_type_hints(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in known:
            near = difflib.get_close_matches(name[:_LONGEST_KEY], known, n=3)
            hint = f" Nearest: {', '.join(near)}." if near else ""
            yield f"Unknown key {shown(name)}.{hint}"
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                yield from _config_errors(hints[key], value, known, f"{name}.")
            elif value != MISSING:
                yield f"`{name}` must hold keys and values, got {shown(_plain(value))}."
        elif isinstance(value, dict if _items(hints[key]) else dict | list | tuple):
            kind = "list" if _items(hints[key]) else "single value"
            yield f"`{name}` must be a {kind}, got {shown(_plain(value))}."
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            yield f"`{name}` must be a list of single values, got {shown(_plain(value))}."
        elif _takes_list(hints[key], _plain(value)) and value != MISSING:
            item, quoted = one_line(value, 40), shown(_plain(value))
            yield f"`{name}` must be a list such as [{item}], got {quoted}."
        elif bool in _options(hints[key]) and type(_plain(value)) in (int, float):
            yield f"`{name}` must be true or false, got {shown(_plain(value))}."


def _takes_list(hint: Any, value: Any) -> bool:
    """Whether a field of type `hint` needs a list but `value` is not one; None may be allowed."""
    allowed = value is None and type(None) in _options(hint)
    return bool(_items(hint)) and not (allowed or isinstance(value, list | tuple))


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself where it is none."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _items(hint: Any) -> tuple[Any, ...]:
    """The types of the items of a list or tuple; () for a hint of something else."""
    for option in _options(hint):
        if get_origin(option) in (list, tuple):
            return get_args(option)
    return ()


def _plain(value: Any) -> Any:
    """`value` with plain scalars, at any depth, as what they stand for."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return yaml_text.scalar(value) if isinstance(value, yaml_text.Plain) else value


def _typed(hint: Any, value: Any) -> Any:
    """`value` with plain scalars as what they stand for in a field of type `hint`."""
    if isinstance(value, dict) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return {str(key): _typed(hints[key], part) for key, part in value.items()}
    if isinstance(value, list):
        items = _items(hint)
        return [_typed(items[0] if items else None, part) for part in value]
    if isinstance(value, yaml_text.Plain) and str in _options(hint) and int not in _options(hint):
        null = yaml_text.scalar(value) is None
        return None if null else str(value)
    return _plain(value)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The single values in nested dictionaries and lists, each with its full key."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _leaves(part, f"{name}[{i}]")
    else:
        yield name, value


def _check_leaf(key: str, value: Any) -> None:
    """Raise ValueError for a number that is not finite, or larger than 64 bits, or a NUL."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{key}` must be a finite number, got {value}.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"`{key}` must fit in 64 bits, got {shown(value)}.")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"`{key}` must not hold a NUL character, got {shown(value)}.")
