"""How the tokens of a clip lie on the ranks of a group: dynamic sequence parallel.

DSP (arXiv 2403.10266): a rank holds some of the frames where tokens attend within their frame, and
some of the tokens of every frame where they attend along the frames. Between the two each rank
sends each other one a part of what it holds. Shapes: P ranks, B clips, F frames, N tokens of a
frame, D hidden size.
"""

from mindspore import Tensor, nn

from latte_ms.layers import kernels
from latte_ms.layers.collectives import all_to_all
from latte_ms.parallel.group import Group


class Sequence(nn.Cell):
    """Of a single rank: it holds everything, and nothing is sent."""

    ranks = 1

    def to_tokens(self, x: Tensor) -> Tensor:
        """Some tokens of all frames (B, F, N / P, D), for all tokens of some (B, F / P, N, D)."""
        return x

    def to_frames(self, x: Tensor) -> Tensor:
        """The inverse of `to_tokens`."""
        return x


class DividedSequence(Sequence):
    """Of a group of ranks, each of which has an equal number of frames, and of tokens.

    Every rank must make the same exchanges in the same order. Backends differ in whether they keep
    to the order of a graph: each exchange must depend on the one before.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(auto_prefix=False)
        self.ranks = group.size
        self.exchange = all_to_all(group)

    def to_tokens(self, x: Tensor) -> Tensor:
        return joined_frames(self.exchange(token_parts(x, self.ranks)))

    def to_frames(self, x: Tensor) -> Tensor:
        return joined_tokens(self.exchange(frame_parts(x, self.ranks)))


# Each rearrangement is one exchange of two axes, between reshapes.
def token_parts(x: Tensor, ranks: int) -> Tensor:
    """'b f (p n) d -> p b f n d'."""
    b, f, n, d = x.shape
    return _swapped(x.reshape(b * f, ranks, -1)).reshape(ranks, b, f, n // ranks, d)


def joined_frames(x: Tensor) -> Tensor:
    """'p b f n d -> b (p f) n d'."""
    p, b, f, n, d = x.shape
    return _swapped(x.reshape(p, b, -1)).reshape(b, p * f, n, d)


def frame_parts(x: Tensor, ranks: int) -> Tensor:
    """'b (p f) n d -> p b f n d'."""
    b, f, n, d = x.shape
    return _swapped(x.reshape(b, ranks, -1)).reshape(ranks, b, f // ranks, n, d)


def joined_tokens(x: Tensor) -> Tensor:
    """'p b f n d -> b f (p n) d'."""
    p, b, f, n, d = x.shape
    return _swapped(x.reshape(p, b * f, -1)).reshape(b, f, p * n, d)


def _swapped(x: Tensor) -> Tensor:
    """'a b c -> b a c'."""
    return kernels.transpose(x, (1, 0, 2))
