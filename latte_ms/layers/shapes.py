"""Checks of the shapes that a network receives, made while its graph is compiled."""

from mindspore import Tensor
from mindspore.ops import constexpr

Shape = tuple[int | str, ...]  # a letter stands for any size


def require_shape(name: str, value: Tensor | None, shape: Shape) -> None:
    """Raise ValueError unless `value` has `shape`, in which a letter stands for any size."""
    if value is None:
        raise ValueError(f"`{name}` of shape {_text(shape)} is required by this network, got None.")
    if not _fits(value.shape, shape):
        raise ValueError(f"`{name}` must have the shape {_text(shape)}, got {_text(value.shape)}.")


@constexpr
def _fits(actual: tuple[int, ...], shape: Shape) -> bool:
    return len(actual) == len(shape) and all(
        isinstance(expected, str) or size == expected
        for size, expected in zip(actual, shape, strict=True)
    )


@constexpr
def _text(shape: Shape) -> str:
    """(2, L, 16), and (2,) with one axis, as Python writes tuples."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
