"""YAML files and `key=value` overrides to frozen dataclasses, strictly; knows no other module."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


def load(schema: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read `path` and apply `key=value` overrides (dots go down into nested fields).

    `schema` is a dataclass, possibly nested. Raises ValueError for an unknown key (with the nearest
    names), a missing required field, or a value of another type; FileNotFoundError for the file.
    """
    written = OmegaConf.create({})
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"`--config` names no file: {path}.")
        written = OmegaConf.load(path)
    bad = [item for item in overrides if "=" not in item]
    if bad:
        raise ValueError(f"An override has the form key=value, got {bad[0]!r}.")
    written = OmegaConf.merge(written, OmegaConf.from_dotlist(list(overrides)))
    if not isinstance(written, DictConfig):
        raise ValueError(f"`--config` must hold keys and values, got a list: {path}.")
    values = OmegaConf.to_container(written, resolve=True)
    assert isinstance(values, dict)
    return from_dict(schema, values)


def from_dict(schema: type[T], values: dict[Any, Any]) -> T:
    """Build the dataclass `schema` from nested dictionaries, as strictly as `load`."""
    known = set(_paths(schema))
    unknown = [key for key in _keys(values) if key not in known]
    if unknown:
        raise ValueError(_unknown_message(unknown, known))
    try:
        structured = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values))
        missing = OmegaConf.missing_keys(structured)
        if missing:
            raise ValueError(f"Required, and not given: {', '.join(sorted(missing))}.")
        built = OmegaConf.to_object(structured)
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        key = getattr(error, "full_key", None)
        raise ValueError(f"`{key}`: {message}" if key else message) from error
    assert isinstance(built, schema)
    return built


def to_yaml(config: Any) -> str:
    """The whole resolved configuration, as `load` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _paths(schema: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        name = f"{prefix}{field.name}"
        yield name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _paths(hints[field.name], f"{name}.")


def _keys(values: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _unknown_message(unknown: Iterable[str], known: set[str]) -> str:
    lines = []
    for key in unknown:
        near = difflib.get_close_matches(key, sorted(known), n=3)
        lines.append(f"Unknown key {key!r}." + (f" Nearest: {', '.join(near)}." if near else ""))
    return " ".join(lines)
