"""AdamW as torch computes it, with its step-dependent factors worked out on the host in float64."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from latte_ms.layers import kernels

Factors: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101), learning-rate schedule, clipping and weight averaging."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0  # linear from 0
    decay_steps: int = 0  # half cosine down to 0, ending at this step; 0: constant
    clip_max_norm: float = 0.1  # global L2 norm of the gradient
    clip_start_step: int = 0  # before it the norm is only measured
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
                    f"`{name}` must not be negative, and finite, got {getattr(self, name)}."
                )
        if 0 < self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"`decay_steps` (={self.decay_steps}) must be 0 or above "
                f"`warmup_steps` (={self.warmup_steps})."
            )


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Rate of update number `step`, counted from 0."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.decay_steps:
        done = (step - config.warmup_steps) / (config.decay_steps - config.warmup_steps)
        rate *= 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))
    return rate


def step_factors(config: OptimizerConfig, step: int) -> Factors:
    """What update number `step` (from 0) depends on, as float32 scalars.

    Returns:
        (rate / (1 - beta1^n), 1 / sqrt(1 - beta2^n), 1 - rate * weight_decay, largest norm),
        n = step + 1; the largest norm is infinite in effect before `clip_start_step`.
    """
    rate, n = learning_rate(config, step), step + 1
    clipped = step >= config.clip_start_step
    factors = (
        rate / (1.0 - config.beta1**n),
        1.0 / np.sqrt(1.0 - config.beta2**n),
        1.0 - rate * config.weight_decay,
        config.clip_max_norm if clipped else 1e30,
    )
    corrected, root, shrink, largest = (Tensor(np.float32(factor)) for factor in factors)
    return corrected, root, shrink, largest


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """L2 norm over all gradients together, in float32."""
    squares = ops.zeros((), ms.float32)
    for gradient in gradients:
        squares = squares + kernels.total(ops.square(gradient.astype(ms.float32)))
    return ops.sqrt(squares)


def adamw(
    weight: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    betas: tuple[float, float],
    epsilon: float,
    rate: Tensor,
    root: Tensor,
    shrink: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One AdamW update: new (weight, first moment, second moment). See `step_factors`."""
    first = first * betas[0] + gradient * (1.0 - betas[0])
    second = second * betas[1] + ops.square(gradient) * (1.0 - betas[1])
    change = kernels.divide(first, ops.sqrt(second) * root + epsilon)
    return weight * shrink - change * rate, first, second
