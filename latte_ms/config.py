"""YAML files and `key=value` overrides to frozen dataclasses, strictly; knows no other module.

Also the config.json files that lie beside the weights of a network.
"""

import argparse
import dataclasses
import difflib
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

T = TypeVar("T")


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
    """Write a config.json, its fields in the order of the alphabet."""
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    Path(path).write_text(text, encoding="utf-8")


def load(schema: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read `path` and apply `key=value` overrides (dots go down into nested fields).

    `schema` is a dataclass, possibly nested. Raises ValueError for an unknown key (with the nearest
    names), a missing required field, or a value of another type; FileNotFoundError for the file.
    """
    written = OmegaConf.create({}) if path is None else _read(path)
    with _naming_the_key():
        merged = OmegaConf.merge(written, *map(_override, overrides))
        values = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(values, dict)
    return from_dict(schema, values)


def from_dict(schema: type[T], values: dict[Any, Any]) -> T:
    """Build the dataclass `schema` from nested dictionaries, as strictly as `load`.

    Where `schema` has a static method `fill`, it is given `values` first and returns them with
    what follows from them for keys that they leave out.
    """
    mistakes = list(_mistakes(schema, values, sorted(_paths(schema))))
    if mistakes:
        raise ValueError(" ".join(mistakes))
    fill = getattr(schema, "fill", None)
    with _naming_the_key():
        values = values if fill is None else fill(values)
        structured = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values))
        missing = OmegaConf.missing_keys(structured)
        if missing:
            raise ValueError(f"Required, and not given: {', '.join(sorted(missing))}.")
        for key, number in _floats(OmegaConf.to_container(structured)):
            if not math.isfinite(number):
                raise ValueError(f"`{key}` must be a finite number, got {number}.")
        built = OmegaConf.to_object(structured)
    assert isinstance(built, schema)
    return built


def to_yaml(config: Any) -> str:
    """The whole resolved configuration, as `load` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def parse(schema: type[T], arguments: list[str] | None, description: str | None) -> T:
    """Read the command line `--config FILE [key=value ...]` that all scripts share.

    `--dry-run` prints the whole configuration and ends the program. A mistake in the configuration
    ends it too, with one line that names it.
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
    """End the program with the message alone, status 2, where the input is wrong.

    ValueError and OSError say that it is; `others` are to be treated alike.
    """
    expected: tuple[type[Exception], ...] = (ValueError, OSError, *others)
    try:
        yield
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _read(path: str | Path) -> DictConfig:
    if not Path(path).is_file():
        raise FileNotFoundError(f"`--config` names no file: {path}.")
    try:
        written = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` is no valid YAML: {path}: {error}") from error
    if not isinstance(written, DictConfig):
        raise ValueError(f"`--config` must hold keys and values, got a list: {path}.")
    return written


def _override(item: str) -> DictConfig:
    key, equals, _ = item.partition("=")
    if not (key and equals):
        raise ValueError(f"An override has the form key=value, got {item!r}.")
    try:
        return OmegaConf.from_dotlist([item])
    except YAMLError as error:
        raise ValueError(f"The value of an override is no valid YAML: {item!r}.") from error


@contextmanager
def _naming_the_key() -> Iterator[None]:
    """Turn the errors of the reader of configurations into ValueError with the key's full name."""
    try:
        yield
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        key = getattr(error, "full_key", None)
        raise ValueError(f"`{key}`: {message}" if key else message) from error


def _paths(schema: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
        yield name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _paths(hints[field.name], f"{name}.")


def _mistakes(
    schema: type, values: dict[Any, Any], known: list[str], prefix: str = ""
) -> Iterator[str]:
    """A sentence for each key that `schema` lacks, and each section or list that is one value."""
    hints = get_type_hints(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            yield f"Unknown key {name!r}." + (f" Nearest: {', '.join(near)}." if near else "")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                yield from _mistakes(hints[key], value, known, f"{name}.")
            elif value != MISSING:
                yield f"`{name}` must hold keys and values, got {value!r}."
        elif get_origin(hints[key]) in (list, tuple) and not (
            isinstance(value, list | tuple) or value == MISSING
        ):
            yield f"`{name}` must be a list such as [{value}], got {value!r}."


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
