"""The exception of weight files, and how its messages name files and tensors."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class WeightError(ValueError):
    """A weight file that cannot be read, written, or loaded into a network."""


@contextmanager
def located(path: str | Path | None) -> Iterator[None]:
    """Put `path` in front of the message of a WeightError or ValueError, unless it is in it.

    None leaves the message as it is.
    """
    try:
        yield
    except ValueError as error:
        if path is None or str(path) in str(error):
            raise
        kind = WeightError if isinstance(error, WeightError) else ValueError
        raise kind(f"{path}: {error}") from error


def listing(names: Iterable[str]) -> str:
    """Names in a sentence: `a`, `b`; or "none"."""
    return ", ".join(f"`{name}`" for name in names) or "none"
