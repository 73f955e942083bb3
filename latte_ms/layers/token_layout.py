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


class TokenLayout(nn.Cell):
    """The layout of a single rank, which holds all frames and tokens; nothing is exchanged."""

    num_ranks = 1

    def divide_tokens(self, x: Tensor) -> Tensor:
        """From all tokens of this rank's frames (B, F / P, N, D) to its tokens of all frames.

        These are (B, F, N / P, D).
        """
        return x

    def divide_frames(self, x: Tensor) -> Tensor:
        """The inverse of `divide_tokens`."""
        return x


class DividedTokenLayout(TokenLayout):
    """The layout of a group of ranks, each holding an equal number of frames, or of tokens.

    Every rank must make the same exchanges in the same order. Backends differ in whether they keep
    to the order of a graph: each exchange must depend on the one before.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(auto_prefix=False)
        self.num_ranks = group.size
        self.exchange = all_to_all(group)

    def divide_tokens(self, x: Tensor) -> Tensor:
        return joined_frames(self.exchange(token_parts(x, self.num_ranks)))

    def divide_frames(self, x: Tensor) -> Tensor:
        return joined_tokens(self.exchange(frame_parts(x, self.num_ranks)))


# Each rearrangement is one exchange of two axes, between reshapes.
def token_parts(x: Tensor, num_ranks: int) -> Tensor:
    """'b f (p n) d -> p b f n d'."""
    b, f, n, d = x.shape
    return _swapped(x.reshape(b * f, num_ranks, -1)).reshape(num_ranks, b, f, n // num_ranks, d)


def joined_frames(x: Tensor) -> Tensor:
    """'p b f n d -> b (p f) n d'."""
    p, b, f, n, d = x.shape
    return _swapped(x.reshape(p, b, -1)).reshape(b, p * f, n, d)


def frame_parts(x: Tensor, num_ranks: int) -> Tensor:
    """'b (p f) n d -> p b f n d'."""
    b, f, n, d = x.shape
    return _swapped(x.reshape(b, num_ranks, -1)).reshape(num_ranks, b, f // num_ranks, n, d)


def joined_tokens(x: Tensor) -> Tensor:
    """'p b f n d -> b f (p n) d'."""
    p, b, f, n, d = x.shape
    return _swapped(x.reshape(p, b * f, -1)).reshape(b, f, p * n, d)


def _swapped(x: Tensor) -> Tensor:
    """'a b c -> b a c'."""
    return kernels.transpose(x, (1, 0, 2))
