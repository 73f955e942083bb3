"""Self-representation alignment: an early layer learns from a later one that sees less noise.

SRA (arXiv 2505.02831): the EMA of the network, the teacher, gets the same latents with the same
noise at a smaller timestep. A projection of the tokens that the network has after a few blocks is
pulled towards those that the teacher has after more of them.
"""

from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.linear import Linear

_BETA = 0.05  # of the smooth L1 distance, as in the authors' code
_NON_BATCH_AXES = (1, 2, 3)


class TappedDenoiser(Protocol):
    """A denoiser that also returns its tokens (B, F, N, D) after a number of its blocks."""

    def with_tokens(
        self, x: Tensor, t: Tensor, num_blocks: int, **conditions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `construct` returns, and the tokens after `num_blocks` blocks."""

    def tokens_after(self, x: Tensor, t: Tensor, num_blocks: int, **conditions: Tensor) -> Tensor:
        """The tokens after `num_blocks` blocks; the others are not run."""


class ProjectionHead(nn.Cell):
    """Linear, SiLU, Linear: tokens (..., D) -> (..., D). It is trained, and no part of the network.

    Args:
        seed: draws the weights, uniform within sqrt(6 / (inputs + outputs)); biases are zero.
    """

    def __init__(self, hidden_size: int, dtype: ms.Type, seed: int) -> None:
        super().__init__()
        self.linear_1 = Linear(hidden_size, 2 * hidden_size, dtype=dtype)
        self.linear_2 = Linear(2 * hidden_size, hidden_size, dtype=dtype)
        rng = np.random.default_rng(seed)
        for layer in (self.linear_1, self.linear_2):
            bound = np.sqrt(6.0 / sum(layer.weight.shape))
            values = rng.uniform(-bound, bound, layer.weight.shape)
            layer.weight.set_data(Tensor(values.astype(np.float32)))

    def construct(self, tokens: Tensor) -> Tensor:
        return self.linear_2(kernels.silu(self.linear_1(tokens)))


class Alignment(nn.Cell):
    """The distance between tokens of a network and those of its teacher, per sample.

    Args:
        teacher: another network of the same configuration, a `TappedDenoiser`. Its parameters are
            renamed to "ema." + name and become the EMA: see `teacher_parameters`.
        hidden_size: D of the tokens.
        student_blocks, teacher_blocks: after how many blocks the tokens are taken.
        weight: of the distance in the loss; the authors' code has 0.04 for a DiT.
        dtype: compute dtype of the projection.
        seed: of the projection's weights.
    """

    def __init__(
        self,
        teacher: nn.Cell,
        hidden_size: int,
        student_blocks: int,
        teacher_blocks: int,
        weight: float,
        dtype: ms.Type = ms.float32,
        seed: int = 0,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.teacher = teacher
        self._names = {parameter.name: parameter for parameter in teacher.trainable_params()}
        for parameter in teacher.get_parameters():
            parameter.name = f"ema.{parameter.name}"
            parameter.requires_grad = False
        self.head = ProjectionHead(hidden_size, dtype, seed)
        self.head.update_parameters_name("alignment.")
        self.student_blocks, self.teacher_blocks = student_blocks, teacher_blocks
        self.weight = weight

    @property
    def teacher_parameters(self) -> dict[str, Parameter]:
        """The teacher's parameters by the names of the weights that they are the EMA of."""
        return dict(self._names)

    def construct(self, tokens: Tensor, x_t: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Mean smooth L1 distance (B,).

        Args:
            tokens: (B, F, N, D), the network's after `student_blocks` blocks.
            x_t: (B, F, C, h, w), the latents with the noise of the teacher's timestep.
            t: (B,), that timestep.
            conditions: the network's.
        """
        wanted = self.teacher.tokens_after(x_t, t, self.teacher_blocks, **conditions)
        difference = self.head(tokens).astype(ms.float32) - ops.stop_gradient(wanted)
        size = ops.abs(difference)
        distance = kernels.where(
            size < _BETA, difference * difference * (0.5 / _BETA), size - 0.5 * _BETA
        )
        return kernels.mean(distance, _NON_BATCH_AXES)
