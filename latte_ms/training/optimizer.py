"""AdamW as torch computes it, and the EMA of the weights: the arithmetic of one parameter.

What depends on the number of the update is computed on the host, in float64.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from latte_ms.layers import kernels

# Of one parameter: weight, first moment, second moment, EMA of the weight.
ParameterState: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
# The fields of `StepFactors` on the device, in their order, each ().
DeviceFactors: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101), learning-rate schedule, gradient clipping and EMA of the weights.

    Raises ValueError for a value out of range.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0  # linear; the first update has learning_rate / warmup_steps
    decay_steps: int = 0  # half cosine down to 0 at this step, counted from the start; 0: constant
    clip_max_norm: float = 0.1  # global L2 norm of the gradient
    clip_start_step: int = 0  # gradients of earlier updates are not clipped
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "clip_max_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be above 0 and finite, got {getattr(self, name)}.")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        for name in ("weight_decay", "warmup_steps", "decay_steps", "clip_start_step"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` must be finite and not negative, got {getattr(self, name)}."
                )
        if 0 < self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"`decay_steps` (={self.decay_steps}) must be 0 or above "
                f"`warmup_steps` (={self.warmup_steps})."
            )


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Learning rate of update number `step`, counted from 0."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.decay_steps:
        done = (step - config.warmup_steps) / (config.decay_steps - config.warmup_steps)
        rate *= 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))
    return rate


@dataclass(frozen=True)
class StepFactors:
    """What update number n, counted from 1, depends on besides states and gradients."""

    corrected_rate: float  # learning rate / (1 - beta1^n)
    root_second_moment_scale: float  # 1 / sqrt(1 - beta2^n)
    decay_factor: float  # 1 - learning rate * weight decay
    max_norm: float  # limit of the gradient norm; 1e30, effectively none, before `clip_start_step`

    def tensor(self) -> Tensor:
        """(4,) float32 in the order of the fields, as `TrainStep` takes it."""
        return Tensor(np.array(dataclasses.astuple(self), np.float32))


def step_factors(config: OptimizerConfig, step: int) -> StepFactors:
    """The factors of update number `step`, counted from 0."""
    rate, n = learning_rate(config, step), step + 1
    return StepFactors(
        corrected_rate=rate / (1.0 - config.beta1**n),
        root_second_moment_scale=float(1.0 / np.sqrt(1.0 - config.beta2**n)),
        decay_factor=1.0 - rate * config.weight_decay,
        max_norm=config.clip_max_norm if step >= config.clip_start_step else 1e30,
    )


def unpack(factors: Tensor) -> DeviceFactors:
    """The entries of `StepFactors.tensor`, inside a graph."""
    corrected_rate, root_second_moment_scale, decay_factor, max_norm = kernels.split(factors, 1, 0)
    return (
        corrected_rate.reshape(()),
        root_second_moment_scale.reshape(()),
        decay_factor.reshape(()),
        max_norm.reshape(()),
    )


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """L2 norm over all gradients together, in float32."""
    squares = ops.zeros((), ms.float32)
    for gradient in gradients:
        squares = squares + kernels.total(ops.square(gradient.astype(ms.float32)))
    return ops.sqrt(squares)


def clip_factor(norm: Tensor, max_norm: Tensor) -> Tensor:
    """min(1, max_norm / (norm + 1e-6)), as in torch.nn.utils.clip_grad_norm_."""
    return ops.minimum(kernels.divide(max_norm, norm + 1e-6), Tensor(1.0, ms.float32))


def adamw(
    state: ParameterState, gradient: Tensor, config: OptimizerConfig, factors: DeviceFactors
) -> ParameterState:
    """The state after one AdamW update of one parameter and its EMA.

    Args:
        state: float32 tensors of one shape.
        gradient: float32 of that shape, after clipping.
    """
    weight, first, second, ema = state
    corrected_rate, root_second_moment_scale, decay_factor, _ = factors
    first = first * config.beta1 + gradient * (1.0 - config.beta1)
    second = second * config.beta2 + ops.square(gradient) * (1.0 - config.beta2)
    change = kernels.divide(first, ops.sqrt(second) * root_second_moment_scale + config.epsilon)
    weight = weight * decay_factor - change * corrected_rate
    return weight, first, second, ema * config.ema_decay + weight * (1.0 - config.ema_decay)
