"""mindone's schedulers that step between timesteps of the training schedule, as subclasses.

A step leads from its timestep to the next one of the run, and the last step to the clean sample.
diffusers, whose code the library follows, has other rules in places; they are kept for comparisons
where `like_diffusers` is set, before `set_timesteps`.
"""

from typing import Any

import numpy as np
from mindone.diffusers import schedulers as library
from mindone.diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from mindone.diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput
from mindone.diffusers.utils.mindspore_utils import randn_tensor
from mindspore import Tensor

from latte_ms.schedulers.tables import host_table, next_timestep, spaced

LOG_OF_ZERO = -1e4  # a log-variance whose exponential is 0 in float32


class DDIMScheduler(library.DDIMScheduler):
    """DDIM that steps to the next timestep of the run.

    The library steps by a fixed stride, the schedule's length divided by the number of steps. Only
    the timesteps of the "leading" spacing lie that far apart.
    """

    like_diffusers = False

    def previous_timestep(self, timestep: int) -> int:
        """The next lower timestep of the run, below 0 after the last."""
        if self.like_diffusers:
            return int(timestep - self.config.num_train_timesteps // self.num_inference_steps)
        return next_timestep(self, timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = False,
    ) -> Any:
        """DDIM, equation 12, in the library's order of operations."""
        previous = self.previous_timestep(timestep)
        clean, noise = estimates(self, model_output, timestep, sample)
        if self.config.thresholding:
            clean = self._threshold_sample(clean)
        elif self.config.clip_sample:
            limit = self.config.clip_sample_range
            clean = clean.clamp(-limit, limit)
        if use_clipped_model_output:
            noise = noise_in(self, sample, timestep, clean)
        alpha_bar = self.alphas_cumprod[previous] if previous >= 0 else self.final_alpha_cumprod
        deviation = eta * self._get_variance(timestep, previous) ** 0.5
        direction = (1 - alpha_bar - deviation**2) ** 0.5 * noise
        x = alpha_bar**0.5 * clean + direction
        if eta > 0:
            if variance_noise is None:
                shape = model_output.shape
                variance_noise = randn_tensor(shape, generator=generator, dtype=sample.dtype)
            x = x + deviation * variance_noise
        x = x.astype(sample.dtype)
        return DDIMSchedulerOutput(x, clean) if return_dict else (x, clean)


class DDPMScheduler(library.DDPMScheduler):
    """DDPM whose last step adds no noise, and whose steps do not search on the device."""

    like_diffusers = False

    def previous_timestep(self, timestep: int) -> int:
        """The next lower timestep of the run, -1 after the last."""
        if not (self.custom_timesteps or self.num_inference_steps):
            return timestep - 1
        return next_timestep(self, timestep)

    def _get_variance(
        self, t: int, predicted_variance: Tensor | None = None, variance_type: str | None = None
    ) -> Tensor:
        """The variance of a step from t, or its logarithm; none in the last step of a run.

        The library leaves it out at timestep 0 only, where not every run ends.
        """
        if not self.like_diffusers and self.previous_timestep(t) < 0:
            kind = variance_type or self.config.variance_type
            return Tensor(LOG_OF_ZERO if kind == "learned_range" else 0.0)
        return super()._get_variance(t, predicted_variance, variance_type)


class PNDMScheduler(library.PNDMScheduler):
    """PNDM with any spacing, starting at any step and ending at the clean sample.

    The library steps by a fixed stride, as its DDIM does; combines predictions of v of different
    timesteps, whose scales of noise differ; and ends at the noise of
    timestep 0 unless `set_alpha_to_one` is set, which by default it is not.
    """

    like_diffusers = False

    def set_timesteps(self, num_inference_steps: int) -> None:
        """The timesteps of all stages of all steps."""
        super().set_timesteps(num_inference_steps)
        if not self.like_diffusers:
            count, train = num_inference_steps, self.config.num_train_timesteps
            self._timesteps = spaced(self.config, count, train).round()[::-1].astype(np.int64)
            self._set_stages(self._timesteps)

    def keep_last_steps(self, count: int) -> None:
        """Run only the last `count` steps, which begin as a whole run does.

        The earlier steps are left out and the others stay what they were (PNDM, algorithm 2, from a
        later time). Taken from the library's list, a run would begin in the middle of a step.
        """
        self._set_stages(self._timesteps[:count])

    def _set_stages(self, steps: np.ndarray) -> None:
        """The stages of a run through `steps` (ascending): each evaluates the network once."""
        order = self.pndm_order
        if self.config.skip_prk_steps:
            self.prk_timesteps = np.array([], np.int64)
            doubled = np.concatenate((steps[:-1], steps[-2:-1], steps[-1:]))
            self.plms_timesteps = doubled[::-1].copy()
        else:
            ends = steps[-order:]
            stages = np.repeat(ends, 2)[:-1]
            stages[1::2] = (ends[1:] + ends[:-1]) // 2
            self.prk_timesteps = np.repeat(stages, 2)[1:-1][::-1].copy()
            self.plms_timesteps = steps[: 1 - order][::-1].copy()
        both = np.concatenate((self.prk_timesteps, self.plms_timesteps))
        self.timesteps = Tensor(both.astype(np.int64))

    def step(
        self, model_output: Tensor, timestep: int, sample: Tensor, return_dict: bool = False
    ) -> Any:
        """One stage. Outputs of several stages are combined as noise, whatever was predicted."""
        if not self.like_diffusers and self.config.prediction_type == "v_prediction":
            model_output = estimates(self, model_output, timestep, sample)[1]
        return super().step(model_output, timestep, sample, return_dict)

    def _get_prev_sample(
        self, sample: Tensor, timestep: int, prev_timestep: int, model_output: Tensor
    ) -> Tensor:
        """PNDM, equation 11: to the next stage, from where this stage's sample lies."""
        if self.like_diffusers:
            return super()._get_prev_sample(sample, timestep, prev_timestep, model_output)
        start, end = self._ends()
        alpha_bar = self.alphas_cumprod[start]
        alpha_bar_end = self.alphas_cumprod[end] if end >= 0 else Tensor(1.0)
        scale = alpha_bar * (1 - alpha_bar_end) ** 0.5
        scale = scale + (alpha_bar * (1 - alpha_bar) * alpha_bar_end) ** 0.5
        change = (alpha_bar_end - alpha_bar) * model_output / scale
        return ((alpha_bar_end / alpha_bar) ** 0.5 * sample - change).astype(sample.dtype)

    def _ends(self) -> tuple[int, int]:
        """The timesteps between which the present stage leads, -1 after the last one."""
        timesteps, i = host_table(self, "timesteps"), self.counter
        first = i
        if i < len(self.prk_timesteps):
            first = i - i % 4  # all stages of a Runge-Kutta step begin at its start
        elif i == 1:
            first = 0  # without Runge-Kutta the first step is taken twice
        return int(timesteps[first]), int(timesteps[i + 1]) if i + 1 < len(timesteps) else -1


class TCDScheduler(library.TCDScheduler):
    """TCD whose last step leads to the clean sample, not to the noise of timestep 0."""

    like_diffusers = False

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.3,
        generator: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """As the library's; the last step returns the clean sample that the output stands for."""
        if self.step_index is None:
            self._init_step_index(timestep)
        if self.like_diffusers or self.step_index < len(self.timesteps) - 1:
            return super().step(model_output, timestep, sample, eta, generator, return_dict)
        self._step_index += 1
        clean = estimates(self, model_output, timestep, sample)[0].astype(sample.dtype)
        return TCDSchedulerOutput(clean, clean) if return_dict else (clean, clean)


def estimates(
    scheduler: Any, output: Tensor, timestep: int, sample: Tensor
) -> tuple[Tensor, Tensor]:
    """The clean sample and the noise in `sample` that the network's `output` stands for."""
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output, noise_in(scheduler, sample, timestep, output)
    alpha_bar = scheduler.alphas_cumprod[timestep]
    signal, deviation = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if kind == "epsilon":
        return (sample - deviation * output) / signal, output
    return signal * sample - deviation * output, signal * output + deviation * sample


def noise_in(scheduler: Any, sample: Tensor, timestep: int, clean: Tensor) -> Tensor:
    """The noise that makes `sample` of `clean` at `timestep`."""
    alpha_bar = scheduler.alphas_cumprod[timestep]
    return (sample - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
