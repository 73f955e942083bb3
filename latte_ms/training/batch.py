"""A training batch on the host, as named arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from mindspore import Tensor


class Batch(Protocol):
    """What `TrainStep` takes: the objective is called as `objective(*inputs, **conditions)`."""

    @property
    def inputs(self) -> tuple[np.ndarray, ...]: ...

    @property
    def conditions(self) -> Mapping[str, np.ndarray]: ...

    @property
    def videos(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class LatentBatch:
    """For `DenoisingObjective`, for B samples of F frames with C channels of h x w."""

    latents: np.ndarray  # (B, F, C, h, w) float32
    noise: np.ndarray  # (B, F, C, h, w) float32
    timesteps: np.ndarray  # (B,) int32
    # Keyword arguments of the objective: the conditions of the denoiser, from a `ConditionSource`,
    # and what `TimestepSampler` adds.
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    uniform: np.ndarray | None = None  # `Draws.uniform`, where `TimestepSampler` needs it
    videos: tuple[str, ...] = ()  # names of those it was made from, for messages

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        return self.latents, self.noise, self.timesteps


@dataclass(frozen=True)
class PixelBatch:
    """For `AutoencoderObjective`, for N images of S x S pixels with latents (Z, h, w)."""

    pixels: np.ndarray  # (N, 3, S, S) float32 in [-1, 1]
    noise: np.ndarray  # (N, Z, h, w) float32
    conditions: dict[str, np.ndarray] = field(default_factory=dict)  # always empty
    videos: tuple[str, ...] = ()  # names of those it was made from, for messages

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        return self.pixels, self.noise


def tensors(batch: Batch) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Inputs and conditions on the device."""
    inputs = tuple(_tensor(array) for array in batch.inputs)
    return inputs, {name: _tensor(array) for name, array in batch.conditions.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return Tensor(np.ascontiguousarray(array))
