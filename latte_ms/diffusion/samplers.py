"""Samplers as generators: every step is handed to the caller, who owns progress and early stops.

A sampler is a cell whose graph is one step, compiled once and reused for all steps and all batches
of one shape. The state (x, index) stays on the device, the index counts in the graph, coefficients
and noise are gathered there: the loop uploads nothing but a bank of noise before its first step (or
a few parts of it, see `DDPM`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms.diffusion.noise import noise_chunks
from latte_ms.diffusion.process import (
    IS_NOISY,
    DiffusionProcess,
    Prediction,
    ScheduleTable,
    Variance,
)
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels

Array: TypeAlias = Tensor | np.ndarray
Conditions: TypeAlias = tuple[Tensor | np.ndarray | None, ...]

BANK_BYTES = 2**28  # noise uploaded at a time


@dataclass(frozen=True)
class SamplerStep:
    """What a step leaves behind; tensors are on the device, reading them waits for it."""

    index: int  # of the schedule; the last step of sampling is 0
    timestep: int  # of the training schedule, as the network saw it
    x: Tensor  # (B, F, C, H, W), the sample after this step
    x0: Tensor  # (B, F, C, H, W), the clean sample as the network estimates it here


def on_device(array: Array) -> Tensor:
    """A tensor whose values lie on the device, so that no step that takes it uploads them again."""
    tensor = array if isinstance(array, Tensor) else Tensor(array)
    return tensor if tensor.dtype == ms.bool_ else tensor * 1  # a kernel's result stays there


def _on_device_or_none(conditions: Conditions) -> Conditions:
    return tuple(None if array is None else on_device(array) for array in conditions)


class DenoisingStep(nn.Cell):
    """What all samplers' steps share: the network and the process.

    Args:
        denoise: cell (x, t, *conditions); see `latte_ms.diffusion`. It keeps its parameter names.
        schedule: the respaced chain.
        prediction, variance, clip_denoised: as in `DiffusionProcess`.
    """

    def __init__(
        self,
        denoise: nn.Cell,
        schedule: Schedule,
        *,
        prediction: Prediction = "epsilon",
        variance: Variance = "learned_range",
        clip_denoised: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.denoise = denoise
        self.schedule = schedule
        self.process = DiffusionProcess(
            schedule, prediction=prediction, variance=variance, clip_denoised=clip_denoised
        )

    def output(self, x: Tensor, index: Tensor, conditions: Conditions) -> Tensor:
        """The network's output at index (1,) for x (B, F, C, H, W)."""
        t = self.process.timesteps(index).broadcast_to((x.shape[0],))
        return self.denoise(x, t, *conditions)

    def clean_and_noise(
        self, x: Tensor, index: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Tensor]:
        """The network's estimates of x_0 and of the noise in x."""
        output = self.output(x, index, conditions)
        prediction, _ = self.process.split_output(output, x.shape[2])
        return self.process.predict(prediction, x, index)

    def check_index(self, name: str, index: int) -> None:
        """Raise ValueError unless `index` is one of the schedule's."""
        if not 0 <= index < self.schedule.num_steps:
            raise ValueError(
                f"`{name}` must be an index from 0 to {self.schedule.num_steps - 1}, got {index}."
            )

    def step(self, index: int, x: Tensor, x0: Tensor) -> SamplerStep:
        """The record of the step at `index`."""
        return SamplerStep(index, int(self.schedule.timestep_map[index]), x, x0)


class Sampler(DenoisingStep):
    """A step towards less noise, and the loop over all of them."""

    stochastic = True  # whether a step adds noise

    def sample(
        self,
        x: Array,
        *conditions: Array | None,
        seeds: Sequence[int] | None = None,
        noise: np.ndarray | None = None,
        start: int | None = None,
    ) -> Iterator[SamplerStep]:
        """All steps from index `start` (the schedule's last) down to 0.

        Args:
            x: (B, F, C, H, W), standard normal for a whole run, noised to `start` for a part.
            conditions: handed to the denoiser.
            seeds: of the steps' noise, one per sample (see `diffusion.noise`).
            noise: (S, B, F, C, H, W) for S steps instead of seeds; row i is the i-th step's.
            start: index of the first step.
        Raises:
            ValueError: a sampler that adds noise has neither or both of seeds and noise, their
                sizes do not fit, or `start` is out of range. Raised at the call.
        """
        first = self.schedule.num_steps - 1 if start is None else start
        self.check_index("start", first)
        banks = self._banks(first + 1, x.shape, seeds, noise)
        return self._run(x, conditions, first, banks)

    def _banks(
        self,
        steps: int,
        shape: tuple[int, ...],
        seeds: Sequence[int] | None,
        noise: np.ndarray | None,
    ) -> Iterator[np.ndarray | None]:
        """The noise of `steps` steps in parts of one shape; one None where none is needed."""
        if not self.stochastic:
            return iter([None])
        if noise is not None and seeds is None:
            if noise.shape != (steps, *shape):
                raise ValueError(f"`noise` must be {(steps, *shape)}, got {noise.shape}.")
            return iter([noise])
        if seeds is None or noise is not None:
            raise ValueError("Give either `seeds` or `noise` to a sampler that adds noise.")
        if len(seeds) != shape[0]:
            raise ValueError(f"`seeds` must be one per sample ({shape[0]}), got {len(seeds)}.")
        parts = -(-steps * 4 * math.prod(shape) // BANK_BYTES)
        return noise_chunks(seeds, steps, shape[1:], rows=-(-steps // parts))

    def _run(
        self,
        x: Array,
        conditions: Conditions,
        first: int,
        banks: Iterator[np.ndarray | None],
    ) -> Iterator[SamplerStep]:
        x = on_device(x).astype(ms.float32)
        conditions = _on_device_or_none(conditions)
        index, position = on_device(np.array([first], np.int32)), first
        for part in banks:
            bank = None if part is None else on_device(part)
            # The bank's row 0 belongs to this index, row 1 to the next lower one.
            top = None if part is None else on_device(np.array([position], np.int32))
            rows = position + 1 if part is None else len(part)
            for _ in range(min(rows, position + 1)):
                x, x0, index = self(x, index, bank, top, *conditions)
                yield self.step(position, x, x0)
                position -= 1


class DDPM(Sampler):
    """x_{t-1} = mean + exp(log_variance / 2) noise, no noise at the last step (DDPM, algorithm 2).

    The noise of all steps is uploaded as one bank; one of more than `BANK_BYTES` is drawn and
    uploaded in equal parts (250 steps of 8 videos of 16 x 4 x 32 x 32: two).
    """

    def construct(
        self, x: Tensor, index: Tensor, bank: Tensor, top: Tensor, *conditions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next x, the estimate of x_0 and the next index.

        Args:
            x: (B, F, C, H, W).
            index: (1,) int32.
            bank: (S, B, F, C, H, W), noise of S steps.
            top: (1,) int32, the index that the bank's first row belongs to.
            conditions: handed to the denoiser.
        """
        output = self.output(x, index, conditions)
        mean, _, log_variance, x0 = self.process.p_mean_variance(output, x, index)
        std = self.process.table(index)[IS_NOISY] * kernels.exp(0.5 * log_variance)
        noise = kernels.gather_rows(bank, top - index).reshape(x.shape)
        return mean + std * noise, x0, index - 1


class DDIM(Sampler):
    """x_{t-1} = sqrt(alpha_bar_{t-1}) x_0 + direction eps + sigma noise (DDIM, equation 12).

    `eta` (0 to 1) scales sigma: 0 is deterministic and takes no noise, 1 is DDPM's posterior. A
    learned variance is not used. Other arguments as in `DenoisingStep`.
    """

    def __init__(
        self, denoise: nn.Cell, schedule: Schedule, *, eta: float = 0.0, **process: Any
    ) -> None:
        super().__init__(denoise, schedule, **process)
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` must be from 0 to 1, got {eta}.")
        self.stochastic = eta > 0
        kept, before = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
        sigma = eta * np.sqrt((1 - before) / (1 - kept) * (1 - kept / before))
        rows = np.stack([np.sqrt(before), np.sqrt(1 - before - sigma**2), sigma])
        self.weights = ScheduleTable(rows.astype(np.float32))

    def construct(
        self,
        x: Tensor,
        index: Tensor,
        bank: Tensor | None,
        top: Tensor | None,
        *conditions: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `DDPM.construct`; bank and top are None where eta is 0."""
        x0, eps = self.clean_and_noise(x, index, conditions)
        signal, direction, sigma = self.weights(index)
        x = signal * x0 + direction * eps
        if self.stochastic:
            x = x + sigma * kernels.gather_rows(bank, top - index).reshape(x.shape)
        return x, x0, index - 1


class DDIMInversion(DenoisingStep):
    """The deterministic DDIM step upwards: from a clean sample to the noise that leads to it.

    x_{t+1} = sqrt(alpha_bar_{t+1}) x_0 + sqrt(1 - alpha_bar_{t+1}) eps with both estimates taken at
    t (DDIM, equation 14). DDIM with eta 0 and `start` at the last index returns to the start, up to
    an error of the order of the step size.
    """

    def __init__(self, denoise: nn.Cell, schedule: Schedule, **process: Any) -> None:
        super().__init__(denoise, schedule, **process)
        after = schedule.alphas_cumprod_next
        rows = np.stack([np.sqrt(after), np.sqrt(1 - after)])
        self.weights = ScheduleTable(rows.astype(np.float32))

    def construct(
        self, x: Tensor, index: Tensor, *conditions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next x, the estimate of x_0 and the next index, for index (1,) int32."""
        x0, eps = self.clean_and_noise(x, index, conditions)
        signal, noise = self.weights(index)
        return signal * x0 + noise * eps, x0, index + 1

    def invert(
        self,
        x: Array,
        *conditions: Array | None,
        stop: int | None = None,
    ) -> Iterator[SamplerStep]:
        """Steps from index 0 until x has the noise of index `stop` (the schedule's last).

        x (B, F, C, H, W) is a clean sample, taken to have the noise of index 0. Raises ValueError
        at the call if `stop` is out of range.
        """
        last = self.schedule.num_steps - 1 if stop is None else stop
        self.check_index("stop", last)
        return self._run(x, conditions, last)

    def _run(self, x: Array, conditions: Conditions, last: int) -> Iterator[SamplerStep]:
        x = on_device(x).astype(ms.float32)
        conditions = _on_device_or_none(conditions)
        index = on_device(np.array([0], np.int32))
        for position in range(last):
            x, x0, index = self(x, index, *conditions)
            yield self.step(position, x, x0)


SAMPLERS: dict[str, type[Sampler]] = {"ddpm": DDPM, "ddim": DDIM}


def ddpm(
    denoise: nn.Cell,
    x: Array,
    schedule: Schedule,
    *conditions: Array | None,
    seeds: Sequence[int] | None = None,
    noise: np.ndarray | None = None,
    **process: Any,
) -> Iterator[SamplerStep]:
    """One run of `DDPM`; keep a `DDPM` instead to sample several batches with one compilation."""
    return DDPM(denoise, schedule, **process).sample(x, *conditions, seeds=seeds, noise=noise)


def ddim(
    denoise: nn.Cell,
    x: Array,
    schedule: Schedule,
    *conditions: Array | None,
    eta: float = 0.0,
    seeds: Sequence[int] | None = None,
    noise: np.ndarray | None = None,
    **process: Any,
) -> Iterator[SamplerStep]:
    """One run of `DDIM`; keep a `DDIM` instead to sample several batches with one compilation."""
    sampler = DDIM(denoise, schedule, eta=eta, **process)
    return sampler.sample(x, *conditions, seeds=seeds, noise=noise)
