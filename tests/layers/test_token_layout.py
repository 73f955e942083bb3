"""Where the tokens of a clip lie on the ranks of a group, against slices of the whole clip."""

from collections.abc import Callable

import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.layers.token_layout import (
    TokenLayout,
    frame_parts,
    joined_frames,
    joined_tokens,
    token_parts,
)

B, F, N, D = 2, 6, 12, 3
WHOLE = np.arange(B * F * N * D, dtype=np.float32).reshape(B, F, N, D)


class Rearranged(nn.Cell):
    """One of the functions as a graph."""

    def __init__(self, function: Callable[..., Tensor], *arguments: int) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def construct(self, x: Tensor) -> Tensor:
        return self.function(x, *self.arguments)


def sent(parts: list[np.ndarray]) -> list[np.ndarray]:
    """What each rank gets: part p of the result comes from rank p."""
    return [np.stack([part[rank] for part in parts]) for rank in range(len(parts))]


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_frames_become_tokens_and_back(ranks: int) -> None:
    frames, tokens = ([x.copy() for x in np.split(WHOLE, ranks, axis)] for axis in (1, 2))
    divide, join = Rearranged(token_parts, ranks), Rearranged(joined_frames)
    parts = sent([divide(Tensor(x)).asnumpy() for x in frames])
    for part, expected in zip(parts, tokens, strict=True):
        np.testing.assert_array_equal(join(Tensor(part)).asnumpy(), expected)
    divide, join = Rearranged(frame_parts, ranks), Rearranged(joined_tokens)
    parts = sent([divide(Tensor(x)).asnumpy() for x in tokens])
    for part, expected in zip(parts, frames, strict=True):
        np.testing.assert_array_equal(join(Tensor(part)).asnumpy(), expected)


def test_a_single_rank_sends_nothing() -> None:
    x = Tensor(WHOLE)
    assert TokenLayout().divide_tokens(x) is x
    assert TokenLayout().divide_frames(x) is x
