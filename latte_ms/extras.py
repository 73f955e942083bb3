"""The packages of an extra: imported where they are needed, and named where they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ImportError):
    """A package that only one of the project's extras needs is not installed."""


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """For the imports inside: say which `extra` brings a package that is missing.

    Args:
        extra: such as t2v, as in `pip install latte_ms[t2v]`.
        purpose: what needs the package, as the subject of "needs".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {error.name}, which is not installed. "
            f"Install the extra {extra!r}: pip install 'latte_ms[{extra}]', "
            f"or in a copy of the repository pip install '.[{extra}]'."
        ) from error
