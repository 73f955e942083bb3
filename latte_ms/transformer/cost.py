"""What a Latte costs, from its configuration alone: parameters, multiplications, activations.

A linear layer of n inputs and m outputs has n m multiplications for each of its rows; norms,
activation functions and softmax are not counted. One multiplication with its addition is two
floating-point operations.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass

from latte_ms.transformer.configuration import BlockKind, LatteConfig

_FREQUENCIES = 256  # of a timestep
_PAPER_CLIPS = 3  # in the paper's count
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
    ends = _ends(config)
    blocks = [_block(config, kind) for kind in config.plan]
    parts = [ends, *blocks]
    return Cost(*(sum(values) for values in zip(*map(astuple, parts), strict=True)))


def _block(config: LatteConfig, kind: BlockKind) -> Cost:
    d, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    frames, tokens = config.token_frames, _tokens(config)
    rows, count = frames * tokens, 2 if kind == "sequential" else 1
    products = rows * (4 * count * d * d + 2 * d * hidden)
    scores = _scores(kind, frames, tokens)
    parameters = count * 4 * _linear(d, d) + _linear(d, hidden) + _linear(hidden, d)
    modulation = modulations = 0
    if config.injection == "tokens":
        parameters += 2 * d * (count + 1)
    else:
        parameters += _linear(d, 6 * d)
        modulation, modulations = 6 * d * d, _MODULATED[kind](frames, tokens)
    return Cost(
        parameters=parameters,
        linear=products + modulation,
        attention=2 * scores * d,
        paper=_PAPER_CLIPS * (products + modulations * modulation),
        activations=rows * (7 * d * count + 2 * d + 2 * hidden) + scores * config.num_heads,
    )


def _ends(config: LatteConfig) -> Cost:
    """Everything but the blocks."""
    d, frames, patches = config.hidden_size, config.token_frames, _patches(config)
    values = config.patch_size**2 * config.in_channels * config.temporal_patch_size
    outputs = config.patch_size**2 * config.out_channels
    parameters = _linear(values, d) + _linear(_FREQUENCIES, d) + _linear(d, d)
    parameters += _linear(d, outputs)
    embedding, final = frames * patches * values * d, frames * patches * d * outputs
    linear = embedding + final + (_FREQUENCIES + d) * d
    if config.conditioning == "class":
        parameters += config.num_labels * d
    if config.conditioning == "text":
        width = config.text_tokens * config.text_width
        parameters += _linear(width, d)
        linear += width * d
    paper = embedding + final
    if config.injection == "tokens":
        parameters += 2 * d
    else:
        parameters += _linear(d, 2 * d)
        linear += 2 * d * d
        paper += frames * 2 * d * d
    if config.temporal_patch_size > 1:
        upsampled = config.temporal_patch_size * config.out_channels
        parameters += _linear(config.out_channels, upsampled)
        linear += frames * patches * outputs * upsampled
    return Cost(parameters, linear, 0, _PAPER_CLIPS * paper, 0)


def _patches(config: LatteConfig) -> int:
    return (config.input_size // config.patch_size) ** 2


def _tokens(config: LatteConfig) -> int:
    return _patches(config) + config.condition_tokens


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
