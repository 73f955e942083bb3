"""The one exception of weight files, and the report of keys that do not fit."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

_SHOWN = 8  # per kind; a wrong network would otherwise print hundreds of lines


class WeightError(ValueError):
    """A weight file that cannot be read, written, or put into a network."""


def located(error: WeightError, path: Path) -> WeightError:
    """The error with the file's path in front, unless its message has it."""
    message = str(error)
    return error if str(path) in message else WeightError(f"{path}: {message}")


def fit_report(
    missing: Collection[str],
    unexpected: Collection[str],
    misfits: Mapping[str, str],
    expected: Collection[str],
    found: Collection[str],
) -> str:
    """All keys that do not fit, in lines, with the nearest names; empty when everything fits.

    `misfits` tells per key what is wrong with its shape or type. `expected` are all the names that
    the network wants and `found` all those of the file.
    """
    lines = _listed("missing", missing, unexpected or found)
    lines += _listed("unexpected", unexpected, missing or expected)
    wrong = [f"  wrong: {name}: {why}" for name, why in list(misfits.items())[:_SHOWN]]
    return "\n".join(lines + wrong + _more("wrong", misfits))


def _listed(kind: str, names: Collection[str], others: Collection[str]) -> list[str]:
    lines = []
    for name in list(names)[:_SHOWN]:
        near = difflib.get_close_matches(name, list(others), n=2)
        lines.append(f"  {kind}: {name}" + (f" (nearest: {', '.join(near)})" if near else ""))
    return lines + _more(kind, names)


def _more(kind: str, names: Collection[str]) -> list[str]:
    return [f"  {kind}: and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []


def listing(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `b`; or "none"."""
    return ", ".join(f"`{name}`" for name in names) or "none"
