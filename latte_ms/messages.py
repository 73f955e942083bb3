"""Text for people: values and their differences in messages, errors in one line, all bounded."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

_QUOTED = 80  # characters of a value in a message
_LINE = 600  # characters of a whole message


class _Quoting(reprlib.Repr):
    """A `repr` that stays short for values of any size, and is exact for short ones."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict = 3, 4
        self.maxlist = self.maxtuple = self.maxset = 8
        self.maxstring = self.maxlong = self.maxother = _QUOTED

    def repr_str(self, x: str, level: int) -> str:
        if len(x) <= self.maxstring:
            return repr(x)
        return f"{x[: self.maxstring]!r}... ({len(x)} characters)"

    def repr_int(self, x: int, level: int) -> str:
        if abs(x) < 10**self.maxlong:
            return repr(x)
        return f"an integer of {x.bit_length()} bits"  # `repr` refuses more than 4300 digits


_quoting = _Quoting()


def shown(value: Any) -> str:
    """`repr(value)` for a message: a long text, number or list is shortened, with its length."""
    if isinstance(value, list | tuple) and len(value) > _quoting.maxlist:
        return f"{_quoting.repr(value)} ({len(value)} values)"
    return _quoting.repr(value)


def one_line(message: Any, limit: int = _LINE) -> str:
    """A message or an error on one line of at most `limit` characters; its end is kept."""
    text = " ".join(str(message)[: 100 * limit].split())
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 4
    return f"{text[:head]} [...] {text[-tail:]}"


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """The key, and the two values, of whatever differs at any depth.

    A list equals a tuple, and what is missing equals None.
    """
    for key in {**before, **now}:
        first, second = before.get(key), now.get(key)
        if all(isinstance(value, Mapping | None) for value in (first, second)):
            yield from differences(first or {}, second or {}, f"{prefix}{key}.")
        elif _plain(first) != _plain(second):
            yield f"{prefix}{key}", first, second


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
