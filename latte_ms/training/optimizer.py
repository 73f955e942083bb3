"""AdamW as torch computes it, and averages of the weights: the arithmetic of one parameter.

What depends on the number of the update is computed on the host, in float64.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from latte_ms.layers import kernels
from latte_ms.training.ema import check_sigma_rel, ema_decay_at, power_decay

# Of one parameter: weight, first moment, second moment, EMA of the weight, its further averages.
ParameterState: TypeAlias = tuple[Tensor, ...]
# The numbers of `StepFactors.tensor`, each ().
DeviceFactors: TypeAlias = tuple[Tensor, ...]
_NUM_SCALARS = 4  # in `DeviceFactors`, before the pairs of the averages


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101), learning-rate schedule, gradient clipping and EMA of the weights.

    The section `optimizer` of a recipe. Raises ValueError for a value out of range.
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
    ema_warmup: bool = False  # the decay of update n is at most (1 + n) / (10 + n)
    ema_start_step: int = 0  # until then the EMA equals the weights; `ema_warmup` counts from there
    # Lengths of further averages, to choose any length from after training (`posthoc_ema.py`): of
    # power functions (EDM2, arXiv 2312.02696), such as [0.05,0.1]
    ema_sigma_rels: tuple[float, ...] = ()
    ema_snapshot_every: int = 0  # updates between their snapshots
    # Divide moments and averages over the ranks (ZeRO-1, arXiv 1910.02054); needs
    # `runtime.distributed`
    shard_states: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ema_sigma_rels", tuple(self.ema_sigma_rels))
        for name in ("learning_rate", "epsilon", "clip_max_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"`optimizer.{name}` must be above 0 and finite, got {getattr(self, name)}."
                )
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"`optimizer.{name}` must be in [0, 1), got {getattr(self, name)}."
                )
        counts = ("warmup_steps", "decay_steps", "clip_start_step", "ema_start_step")
        for name in ("weight_decay", *counts, "ema_snapshot_every"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"`optimizer.{name}` must be finite and not negative, got {value}."
                )
        if 0 < self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"`optimizer.decay_steps` (={self.decay_steps}) must be 0 or above "
                f"`optimizer.warmup_steps` (={self.warmup_steps})."
            )
        self._check_averages()

    def takes_snapshot(self, num_updates: int) -> bool:
        """Whether the averages of `ema_sigma_rels` are written after `num_updates` updates."""
        return self.ema_snapshot_every > 0 and num_updates % self.ema_snapshot_every == 0

    def _check_averages(self) -> None:
        lengths = self.ema_sigma_rels
        for value in lengths:
            check_sigma_rel("optimizer.ema_sigma_rels", value)
        if len(set(lengths)) < len(lengths):
            raise ValueError(
                f"`optimizer.ema_sigma_rels` must differ from each other, got {lengths}."
            )
        if bool(lengths) != (self.ema_snapshot_every > 0):
            raise ValueError(
                f"`optimizer.ema_snapshot_every` (={self.ema_snapshot_every}) must be above 0 for, "
                f"and only for, `optimizer.ema_sigma_rels` (={list(lengths)})."
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
    ema_decays: tuple[float, ...]  # of the EMA, then of the averages of `ema_sigma_rels`

    def tensor(self) -> Tensor:
        """Float32 as `TrainStep` takes it: the first four, then per average decay and 1 - decay."""
        rate, scale = self.corrected_rate, self.root_second_moment_scale
        first = [rate, scale, self.decay_factor, self.max_norm]
        pairs = [number for decay in self.ema_decays for number in (decay, 1.0 - decay)]
        return Tensor(np.array(first + pairs, np.float32))


def step_factors(config: OptimizerConfig, step: int) -> StepFactors:
    """The factors of update number `step`, counted from 0."""
    rate, n = learning_rate(config, step), step + 1
    ema_decay = ema_decay_at(config.ema_decay, config.ema_warmup, config.ema_start_step, n)
    return StepFactors(
        corrected_rate=rate / (1.0 - config.beta1**n),
        root_second_moment_scale=float(1.0 / np.sqrt(1.0 - config.beta2**n)),
        decay_factor=1.0 - rate * config.weight_decay,
        max_norm=config.clip_max_norm if step >= config.clip_start_step else 1e30,
        ema_decays=(ema_decay, *(power_decay(sigma, n) for sigma in config.ema_sigma_rels)),
    )


def unpack(factors: Tensor) -> DeviceFactors:
    """The entries of `StepFactors.tensor`, inside a graph."""
    return tuple([number.reshape(()) for number in kernels.split(factors, 1, 0)])


def sum_of_squares(gradients: tuple[Tensor, ...]) -> Tensor:
    """Over all gradients together, in float32."""
    squares = ops.zeros((), ms.float32)
    for gradient in gradients:
        squares = squares + kernels.total(ops.square(gradient.astype(ms.float32)))
    return squares


def norm_of(squares: Tensor) -> Tensor:
    """L2 norm, of a sum of squares."""
    return ops.sqrt(squares)


def clip_factor(norm: Tensor, max_norm: Tensor) -> Tensor:
    """min(1, max_norm / (norm + 1e-6)), as in torch.nn.utils.clip_grad_norm_."""
    return ops.minimum(kernels.divide(max_norm, norm + 1e-6), Tensor(1.0, ms.float32))


def adamw(
    state: ParameterState, gradient: Tensor, config: OptimizerConfig, factors: DeviceFactors
) -> ParameterState:
    """The state after one AdamW update of one parameter and its averages.

    Args:
        state: float32 tensors of one shape.
        gradient: float32 of that shape, after clipping.
    """
    weight, first, second = state[0], state[1], state[2]
    corrected_rate, root_second_moment_scale, decay_factor = factors[0], factors[1], factors[2]
    first = first * config.beta1 + gradient * (1.0 - config.beta1)
    second = second * config.beta2 + ops.square(gradient) * (1.0 - config.beta2)
    change = kernels.divide(first, ops.sqrt(second) * root_second_moment_scale + config.epsilon)
    weight = weight * decay_factor - change * corrected_rate
    averages: tuple[Tensor, ...] = ()
    for k in range(len(state) - 3):
        at = _NUM_SCALARS + 2 * k
        averages = (*averages, state[3 + k] * factors[at] + weight * factors[at + 1])
    return (weight, first, second, *averages)
