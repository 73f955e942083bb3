"""What a Latte costs, from its configuration alone: parameters, multiplications, activations.

A linear layer of n inputs and m outputs has n m multiplications for each of its rows; norms,
activation functions and softmax are not counted. One multiplication with its addition is two
floating-point operations.
"""

from collections.abc import Callable
from dataclasses import dataclass

from latte_ms.transformer.configuration import BlockKind, LatteConfig

_FREQUENCIES = 256  # of a timestep
# Rows of the modulation in the paper's count: it repeats the condition for each sequence.
_MODULATED: dict[BlockKind, Callable[[int, int], int]] = {
    "spatial": lambda frames, tokens: frames,
    "temporal": lambda frames, tokens: tokens,
    "sequential": lambda frames, tokens: frames + tokens,
    "parallel": lambda frames, tokens: frames + tokens,
}


@dataclass(frozen=True)
class Cost:
    """Of one network, and of one forward pass for one clip without joint images."""

    parameters: int  # fixed tables of positions not counted
    linear: int  # multiplications of linear layers
    attention: int  # of the products of queries, keys and values
    # The count of the paper's tables: linear layers alone, three clips, and the modulation for each
    # frame or token as if it were not the same for all of them
    paper: int
    activations: int  # numbers that a training step keeps for the gradients, per clip

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass."""
        return 2 * (self.linear + self.attention)


def cost_of(config: LatteConfig) -> Cost:
    """The cost of the network of a configuration."""
    d, side = config.hidden_size, config.input_size // config.patch_size
    patches = side * side
    tokens, frames = patches + config.condition_tokens, config.token_frames
    rows = frames * tokens
    values = config.patch_size**2 * config.in_channels * config.temporal_patch_size
    outputs = config.patch_size**2 * config.out_channels
    hidden = int(d * config.mlp_ratio)

    parameters = _linear(values, d) + _linear(_FREQUENCIES, d) + _linear(d, d)
    linear = rows * values * d + (_FREQUENCIES + d) * d
    if config.conditioning == "class":
        parameters += config.num_labels * d
    if config.conditioning == "text":
        width = config.text_tokens * config.text_width
        parameters += _linear(width, d)
        linear += width * d
    attention = activations = 0
    paper = 3 * rows * values * d
    for kind in config.plan:
        count = 2 if kind == "sequential" else 1
        norms = 2 * d * (count + 1) if config.injection == "tokens" else _linear(d, 6 * d)
        parameters += count * 4 * _linear(d, d) + _linear(d, hidden) + _linear(hidden, d) + norms
        products = rows * (4 * count * d * d + 2 * d * hidden)
        linear += products
        paper += 3 * products
        if config.injection == "adaln":
            linear += 6 * d * d
            paper += 3 * _MODULATED[kind](frames, tokens) * 6 * d * d
        attention += 2 * _scores(kind, frames, tokens) * d
        activations += rows * (7 * d * count + 2 * d + 2 * hidden)
        activations += _scores(kind, frames, tokens) * config.num_heads
    parameters += _linear(d, outputs)
    linear += frames * patches * d * outputs
    paper += 3 * frames * patches * d * outputs
    if config.injection == "tokens":
        parameters += 2 * d
    else:
        parameters += _linear(d, 2 * d)
        linear += 2 * d * d
        paper += 3 * frames * 2 * d * d
    if config.temporal_patch_size > 1:
        parameters += _linear(config.out_channels, config.temporal_patch_size * config.out_channels)
        linear += frames * patches * outputs * config.temporal_patch_size * config.out_channels
    return Cost(parameters, linear, attention, paper, activations)


def _linear(inputs: int, outputs: int) -> int:
    """Weights and biases."""
    return inputs * outputs + outputs


def _scores(kind: BlockKind, frames: int, tokens: int) -> int:
    """Pairs of tokens that attend to each other, of all heads together half as many if parallel."""
    spatial, temporal = frames * tokens * tokens, tokens * frames * frames
    return {
        "spatial": spatial,
        "temporal": temporal,
        "sequential": spatial + temporal,
        "parallel": (spatial + temporal) // 2,
    }[kind]
