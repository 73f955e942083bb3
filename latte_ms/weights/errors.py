"""The exceptions of weight files, and how its messages name files and tensors."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class WeightError(ValueError):
    """A weight file that cannot be read, written, or loaded into a network."""


class MisfitError(WeightError):
    """Tensors that are not exactly those of a network."""


@contextmanager
def located(path: str | Path | None) -> Iterator[None]:
    """Prepend `path` to the message of a WeightError or ValueError that does not contain it.

    None leaves the message as it is.
    """
    try:
        yield
    except ValueError as error:
        if path is None or str(path) in str(error):
            raise
        kind = WeightError if isinstance(error, WeightError) else ValueError
        raise kind(f"{path}: {error}") from error


def quoted(names: Iterable[str]) -> str:
    """The names in backquotes, separated by commas; "none" without names."""
    return ", ".join(f"`{name}`" for name in names) or "none"
