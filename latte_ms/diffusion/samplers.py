"""Denoising (or inversion) step by step: an iterator hands every step to the caller.

The caller owns the progress bar and early stopping.

A sampler is a cell whose graph is one step, compiled once and reused for all steps and all batches
of one shape. The state (x, index) stays on the device; the graph counts the index and gathers
coefficients and noise by it. The loop uploads nothing but the noise, in one block before its first
step (or in several, see `DDPM`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms import runtime
from latte_ms.diffusion.noise import noise_blocks
from latte_ms.diffusion.process import (
    Coefficients,
    DiffusionProcess,
    Prediction,
    ScheduleTable,
    Variance,
)
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell

Array: TypeAlias = Tensor | np.ndarray
Conditions: TypeAlias = Mapping[str, Array]  # by the names of the denoiser's arguments

BLOCK_BYTES = 2**28  # largest block of noise uploaded at a time


@dataclass(frozen=True)
class Step:
    """The result of one step. Tensors are on the device, and reading one waits for it."""

    index: int  # number of the step in its run, from 0
    timestep: int | float  # in the training schedule, as the network saw it
    x: Tensor  # (B, F, C, h, w), the sample after this step
    x0: Tensor | None = None  # (B, F, C, h, w), estimate of the clean sample; None for schedulers


class Run(Protocol):
    """The state of one pass over a batch: `x` and the timesteps that it passes."""

    x: Tensor

    @property
    def timesteps(self) -> Sequence[int | float]: ...

    def advance(self, index: int) -> Tensor | None:
        """Replace `x` by the sample after one step; return the estimate of the clean one, if any.

        `index` is the number of the step in the run, from 0.
        """
        ...


def denoise(run: Run) -> Iterator[Step]:
    """All steps of `run`, denoising or inversion.

    Between two steps the caller may replace `run.x`, or stop.
    """
    for index, timestep in enumerate(run.timesteps):
        with runtime.device_lock:
            x0 = run.advance(index)
        yield Step(index, timestep, run.x, x0)


def on_device(array: Array) -> Tensor:
    """A tensor whose values lie on the device, so that no step that takes it uploads them again."""
    tensor = array if isinstance(array, Tensor) else Tensor(array)
    # Multiplying leaves the result on the device; bool has no product.
    return tensor if tensor.dtype == ms.bool_ else tensor * 1


class SamplerStep(EntryCell):
    """What the steps of all samplers share: the denoiser and the process.

    Args:
        denoiser: cell (x, t, **conditions); see `latte_ms.diffusion`. It keeps its parameter names.
        schedule: the respaced chain.
        prediction, variance, clip_denoised: as in `DiffusionProcess`.
    """

    def __init__(
        self,
        denoiser: nn.Cell,
        schedule: Schedule,
        *,
        prediction: Prediction = "epsilon",
        variance: Variance = "learned_range",
        clip_denoised: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.schedule = schedule
        self.process = DiffusionProcess(
            schedule, prediction=prediction, variance=variance, clip_denoised=clip_denoised
        )

    def output(
        self, x: Tensor, coefficients: Coefficients, conditions: dict[str, Tensor]
    ) -> Tensor:
        """The denoiser's output for x (B, F, C, h, w), all at one timestep."""
        t = self.process.timesteps(coefficients).broadcast_to((x.shape[0],))
        return self.denoiser(x, t, **conditions)

    def predict_x0_and_eps(
        self, x: Tensor, coefficients: Coefficients, conditions: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The network's estimates of x_0 and of the noise in x."""
        output = self.output(x, coefficients, conditions)
        prediction, _ = self.process.split_output(output, x.shape[2])
        return self.process.to_x0_and_eps(prediction, x, coefficients)

    def check_index(self, name: str, index: int) -> None:
        """Raise ValueError unless `index` is one of the schedule's."""
        if not 0 <= index < self.schedule.num_steps:
            raise ValueError(
                f"`{name}` must be an index from 0 to {self.schedule.num_steps - 1}, got {index}."
            )


class Sampler(SamplerStep):
    """A denoising step, and the runs that repeat it."""

    stochastic = True  # whether a step adds noise

    def begin(
        self,
        x: Array,
        conditions: Conditions,
        rngs: Sequence[np.random.Generator] | None = None,
        noise: np.ndarray | None = None,
        start: int | None = None,
    ) -> "SamplerRun":
        """A run from index `start` (default: the schedule's last) down to 0, for `denoise`.

        Args:
            x: (B, F, C, h, w), standard normal for a whole run, noised to `start` for a part.
            conditions: those that the denoiser takes, by name.
            rngs: generators of the steps' noise, one per sample (see `diffusion.noise`).
            noise: (S, B, F, C, h, w) for S steps instead of rngs; row i is the i-th step's.
            start: schedule index of the first step.
        Raises:
            ValueError: a sampler that adds noise has neither or both of `rngs` and `noise`, their
                sizes do not fit, or `start` is out of range.
        """
        first = self.schedule.num_steps - 1 if start is None else start
        self.check_index("start", first)
        blocks = self._noise_blocks(first + 1, x.shape, rngs, noise)
        return SamplerRun(self, x, conditions, first, blocks)

    def _noise_blocks(
        self,
        steps: int,
        shape: tuple[int, ...],
        rngs: Sequence[np.random.Generator] | None,
        noise: np.ndarray | None,
    ) -> Iterator[np.ndarray]:
        """The noise of `steps` steps in blocks of one shape; none where no step adds noise."""
        if not self.stochastic:
            return iter(())
        if noise is not None and rngs is None:
            if noise.shape != (steps, *shape):
                raise ValueError(f"`noise` must be {(steps, *shape)}, got {noise.shape}.")
            return iter([noise])
        if rngs is None or noise is not None:
            given = "neither" if noise is None else "both"
            raise ValueError(f"Give `rngs` or `noise` to a sampler that adds noise, got {given}.")
        if len(rngs) != shape[0]:
            raise ValueError(f"`rngs` must be one per sample ({shape[0]}), got {len(rngs)}.")
        count = -(-steps * 4 * math.prod(shape) // BLOCK_BYTES)
        return noise_blocks(rngs, steps, shape[1:], rows=-(-steps // count))


class SamplerRun:
    """One run of a sampler; made by `Sampler.begin`."""

    def __init__(
        self,
        sampler: Sampler,
        x: Array,
        conditions: Conditions,
        first: int,
        blocks: Iterator[np.ndarray],
    ) -> None:
        self.sampler = sampler
        self.x = on_device(x).astype(ms.float32)
        self.timesteps = sampler.schedule.timestep_map[first::-1].tolist()
        self._conditions = {name: on_device(array) for name, array in conditions.items()}
        self._index = on_device(np.array([first], np.int32))  # index of the schedule
        self._blocks, self._block_end = blocks, 0  # the end counts steps of the run
        self._noise: dict[str, Tensor] = {}

    def advance(self, index: int) -> Tensor | None:
        """Step number `index` of the run, from 0; the steps are to be taken in order."""
        if self.sampler.stochastic and index == self._block_end:
            block = next(self._blocks)
            # Row 0 of the block belongs to this step, row 1 to the next one.
            block_start = np.array([len(self.timesteps) - 1 - index], np.int32)
            self._noise = {"block": on_device(block), "block_start": on_device(block_start)}
            self._block_end += len(block)
        self.x, x0, self._index = self.sampler(
            self.x, self._index, **self._noise, **self._conditions
        )
        return x0


class DDPM(Sampler):
    """x_{t-1} = mean + exp(log_variance / 2) noise, no noise at the last step (DDPM, algorithm 2).

    The noise of all steps is uploaded as one block; one of more than `BLOCK_BYTES` is drawn and
    uploaded in equal parts (250 steps of 8 videos of 16 x 4 x 32 x 32: two).
    """

    def construct(
        self, x: Tensor, index: Tensor, block: Tensor, block_start: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next x, the estimate of x_0 and the next index.

        Args:
            x: (B, F, C, h, w).
            index: (1,) int32, index of the schedule.
            block: (S, B, F, C, h, w), noise of S steps.
            block_start: (1,) int32, schedule index of the step that has the first row of `block`.
            conditions: those that the denoiser takes.
        """
        coefficients = self.process.coefficients(index)
        output = self.output(x, coefficients, conditions)
        mean, _, log_variance, x0 = self.process.p_mean_variance(output, x, coefficients)
        std = coefficients["adds_noise"] * kernels.exp(0.5 * log_variance)
        noise = kernels.gather_rows(block, block_start - index).reshape(x.shape)
        return mean + std * noise, x0, index - 1


class DDIM(Sampler):
    """x_{t-1} = sqrt(alpha_bar_{t-1}) x_0 + direction eps + sigma noise (DDIM, equation 12).

    `eta` (0 to 1) scales sigma: 0 is deterministic and takes no noise, 1 is DDPM's posterior. A
    learned variance is not used. Other arguments as in `SamplerStep`.
    """

    def __init__(
        self, denoiser: nn.Cell, schedule: Schedule, *, eta: float = 0.0, **process: Any
    ) -> None:
        super().__init__(denoiser, schedule, **process)
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` must be from 0 to 1, got {eta}.")
        self.stochastic = eta > 0
        alpha_bar, alpha_bar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
        ratio = (1 - alpha_bar_prev) / (1 - alpha_bar)
        sigma = eta * np.sqrt(ratio * (1 - alpha_bar / alpha_bar_prev))
        direction = np.sqrt(1 - alpha_bar_prev - sigma**2)
        self.step_coefficients = ScheduleTable(
            {"signal": np.sqrt(alpha_bar_prev), "direction": direction, "sigma": sigma}
        )

    def construct(
        self,
        x: Tensor,
        index: Tensor,
        block: Tensor | None = None,
        block_start: Tensor | None = None,
        **conditions: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `DDPM.construct`; block and block_start are None where eta is 0."""
        x0, eps = self.predict_x0_and_eps(x, self.process.coefficients(index), conditions)
        step = self.step_coefficients(index)
        x = step["signal"] * x0 + step["direction"] * eps
        if self.stochastic:
            noise = kernels.gather_rows(block, block_start - index).reshape(x.shape)
            x = x + step["sigma"] * noise
        return x, x0, index - 1


class DDIMInversion(SamplerStep):
    """The deterministic DDIM step upwards: from a clean sample to the noise that leads to it.

    x_{t+1} = sqrt(alpha_bar_{t+1}) x_0 + sqrt(1 - alpha_bar_{t+1}) eps with both estimates taken at
    t (DDIM, equation 14). DDIM with eta 0 and `start` at the last index returns to the clean
    sample, up to an error of the order of the step size.
    """

    def __init__(self, denoiser: nn.Cell, schedule: Schedule, **process: Any) -> None:
        super().__init__(denoiser, schedule, **process)
        alpha_bar_next = schedule.alphas_cumprod_next
        self.step_coefficients = ScheduleTable(
            {"signal": np.sqrt(alpha_bar_next), "noise": np.sqrt(1 - alpha_bar_next)}
        )

    def construct(
        self, x: Tensor, index: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next x, the estimate of x_0 and the next index, for index (1,) int32."""
        x0, eps = self.predict_x0_and_eps(x, self.process.coefficients(index), conditions)
        step = self.step_coefficients(index)
        return step["signal"] * x0 + step["noise"] * eps, x0, index + 1

    def begin(self, x: Array, conditions: Conditions, stop: int | None = None) -> "InversionRun":
        """A run from index 0 until x has the noise of index `stop` (default: the last).

        x (B, F, C, h, w) is a clean sample, taken to have the noise of index 0. Raises ValueError
        if `stop` is out of range.
        """
        last = self.schedule.num_steps - 1 if stop is None else stop
        self.check_index("stop", last)
        return InversionRun(self, x, conditions, last)


class InversionRun:
    """One run of `DDIMInversion`."""

    def __init__(
        self, inversion: DDIMInversion, x: Array, conditions: Conditions, last: int
    ) -> None:
        self.inversion = inversion
        self.x = on_device(x).astype(ms.float32)
        self.timesteps = inversion.schedule.timestep_map[:last].tolist()
        self._conditions = {name: on_device(array) for name, array in conditions.items()}
        self._index = on_device(np.array([0], np.int32))  # index of the schedule

    def advance(self, index: int) -> Tensor | None:
        """Step number `index` of the run, from 0; the steps are to be taken in order."""
        self.x, x0, self._index = self.inversion(self.x, self._index, **self._conditions)
        return x0


SAMPLERS: dict[str, type[Sampler]] = {"ddpm": DDPM, "ddim": DDIM}
