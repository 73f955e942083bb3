"""Blocks whose activations are computed again for the gradients: less memory, more time."""

from collections.abc import Sequence

from mindspore import nn

from latte_ms.messages import shown


def num_recomputed(value: int | str, depth: int) -> int:
    """The number of blocks that the key `recompute` stands for.

    Raises ValueError unless `value` is "all", or a number from 0 to the network's `depth`.
    """
    if value == "all":
        return depth
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= depth:
        raise ValueError(
            f"`recompute` must be all, or a number of blocks from 0 to {depth}, got {shown(value)}."
        )
    return value


def recompute_first(blocks: Sequence[nn.Cell], count: int) -> None:
    """Recompute the first `count` blocks, whose activations would be kept for the longest."""
    for block in blocks[:count]:
        block.recompute()
