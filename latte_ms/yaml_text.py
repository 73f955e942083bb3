"""YAML to plain values: mappings, lists, text, numbers, booleans and null, within limits.

Limits are checked before anything is built, and no tag can name another type. A plain (unquoted)
scalar stays text until `scalar` is asked for its value, so that a field of text keeps what is
written: 1.10, 012, 12:30 and no.

A value may refer to others: `${section.key}`, `${list[0]}`, `${oc.env:NAME}`.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from latte_ms.messages import one_line, shown

MAX_BYTES = 1 << 20  # of a file
MAX_NODES = 20_000  # values of a document, with those that aliases and references repeat
MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """The text is no YAML, or is beyond a limit."""


class Plain(str):
    """A scalar written without quotes."""


class _Loader(_BASE):
    """Builds dicts, lists, `str` and `Plain`; refuses a key that is written twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, as in the base class

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key {shown(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _construct_scalar(loader: Any, node: Any) -> Any:
    return node.value if node.style else Plain(node.value)


for _name in ("str", "int", "float", "bool", "null"):
    _Loader.add_constructor(_TAG + _name, _construct_scalar)
# `<<: *section` takes over the keys of a section.
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"^<<$"), ["<"])


def load_bytes(data: bytes) -> Any:
    """The value of a file's content, plain scalars as `Plain`. Raises YamlError."""
    if len(data) > MAX_BYTES:
        raise YamlError(f"it has more than {MAX_BYTES} bytes")
    try:
        return load_text(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise YamlError(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from error


def load_text(text: str) -> Any:
    """The value of a document, plain scalars as `Plain`; None for an empty one. Raises YamlError.

    A text that is too large, too deep, or has too many values once its aliases are replaced, is
    refused before a value is built.
    """
    if "\0" in text:
        raise YamlError("it holds a NUL character")
    try:
        _check_events(yaml.parse(text, Loader=_BASE))
        return yaml.load(text, Loader=_Loader)  # a safe loader, too
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # TypeError: a mapping or list as key, where the library does not see it first.
        raise YamlError(_describe(error)) from error


def _describe(error: Exception) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem:
        return one_line(error, 200)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{one_line(problem, 200)}{place}"


def _check_events(events: Iterator[Any]) -> None:
    """Raise YamlError for too much depth, too many values, a foreign tag, or a recursive alias."""
    counts: list[int] = [0]  # values so far in each open collection; the document's first
    anchors: list[str | None] = []  # of the open collections
    sizes: dict[str, int] = {}  # values that an alias stands for
    for event in events:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!") and tag not in _KNOWN_TAGS:
            raise YamlError(f"the tag {shown(tag)} is not allowed")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise YamlError(f"the alias {shown(event.anchor)} is unknown or recursive")
            counts[-1] += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size = counts.pop()
            sizes[anchors.pop()] = size  # type: ignore[index]  # None: no anchor, never asked for
            counts[-1] += size
        if len(counts) > MAX_DEPTH:
            raise YamlError(f"it is nested more than {MAX_DEPTH} levels deep")
        if counts[-1] > MAX_NODES:
            raise YamlError(f"it has more than {MAX_NODES} values")


def scalar(text: str) -> Any:
    """The value of a plain scalar: null, a boolean, an integer, a float, or itself as text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else str(text)


_REFERENCE = re.compile(r"\$\{([^${}]+)\}")
_ENVIRONMENT = "oc.env:"  # OmegaConf's name for it


def resolve_references(values: dict[Any, Any]) -> dict[Any, Any]:
    """`values` with each `${key}` replaced by the value of that key.

    Raises ValueError, naming the key, for a reference that is malformed, leads nowhere or back to
    itself, or where replacing gives more than a document may hold.
    """
    resolved = _References(values).resolve(values, "")
    assert isinstance(resolved, dict)
    return resolved


class _References:
    def __init__(self, root: dict[Any, Any]) -> None:
        self.root = root
        self.visits = self.characters = 0
        self.pending: list[str] = []  # keys whose values are being replaced

    def resolve(self, value: Any, name: str) -> Any:
        self._count(name, visits=1)
        if isinstance(value, dict):
            prefix = f"{name}." if name else ""
            return {key: self.resolve(part, f"{prefix}{key}") for key, part in value.items()}
        if isinstance(value, list):
            return [self.resolve(part, f"{name}[{i}]") for i, part in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return self._target(whole[1].strip(), name)
        parts, end = [], 0
        for match in _REFERENCE.finditer(value):
            parts += [value[end : match.start()], self._text(match[1].strip(), name)]
            end = match.end()
        parts.append(value[end:])
        if any("${" in literal for literal in parts[::2]):
            raise ValueError(
                f"`{name}` must refer to other keys as in ${{section.key}}, got {shown(value)}."
            )
        return type(value)("".join(parts))

    def _count(self, name: str, visits: int = 0, characters: int = 0) -> None:
        self.visits += visits
        self.characters += characters
        if self.visits > 2 * MAX_NODES or self.characters > MAX_BYTES:
            raise ValueError(f"`{name}` refers to more values than a recipe may hold.")

    def _text(self, key: str, name: str) -> str:
        target = self._target(key, name)
        if isinstance(target, dict | list):
            raise ValueError(f"`{name}`: ${{{key}}} inside a text must be a single value.")
        self._count(name, characters=len(str(target)))
        return str(target)

    def _target(self, key: str, name: str) -> Any:
        if key.startswith(_ENVIRONMENT):
            variable, comma, default = key.removeprefix(_ENVIRONMENT).partition(",")
            if variable not in os.environ and not comma:
                raise ValueError(
                    f"`{name}`: the environment variable {shown(variable)} is not set."
                )
            return Plain(os.environ.get(variable, default.strip()))
        if key in self.pending or len(self.pending) >= MAX_DEPTH:
            raise ValueError(f"`{name}`: the reference {shown(key)} leads back to itself.")
        self.pending.append(key)
        target = self.resolve(self._find(key, name), name)
        self.pending.pop()
        return target

    def _find(self, key: str, name: str) -> Any:
        value: Any = self.root
        for part in re.split(r"[.\[\]]+", key.removesuffix("]")):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                raise ValueError(f"`{name}`: Interpolation key {shown(key)} not found.")
        return value
