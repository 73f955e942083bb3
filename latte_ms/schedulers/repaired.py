"""mindone's schedulers where they need repair, as subclasses under the same names.

Some of the library's classes use operators that have no CPU kernel, one of them in its constructor,
or wait for the device in every step. Their scalar arithmetic depends on the schedule alone, never
on a sample, so it belongs on the host. Every method here gives the results of the one that it
overrides, unless its docstring says otherwise. Each subclass keeps its parent's name, because
pipeline folders record it; the library's own classes stay as they are.
"""

import math
from typing import Any

import numpy as np
from mindone.diffusers import schedulers as library
from mindspore import Tensor


class DDPMScheduler(library.DDPMScheduler):
    """DDPM whose steps do not search their timestep on the device."""

    def previous_timestep(self, timestep: int) -> int:
        """The next lower timestep of the run, -1 after the last."""
        if not (self.custom_timesteps or self.num_inference_steps):
            return timestep - 1
        timesteps = host_table(self, "timesteps")
        i = int(np.flatnonzero(timesteps == timestep)[0]) + 1
        return int(timesteps[i]) if i < len(timesteps) else -1


class PNDMScheduler(library.PNDMScheduler):
    """PNDM that can begin at a later step."""

    def keep_last_steps(self, count: int) -> None:
        """Run only the last `count` steps, the first of them by Runge-Kutta.

        The earlier steps are left out and the others stay what they were (PNDM, algorithm 2, from a
        later time). Taken from the library's list, a run would begin in the middle of the four
        stages of a Runge-Kutta step, and diverge.
        """
        steps = self._timesteps[:count]  # ascending
        half = self.config.num_train_timesteps // self.num_inference_steps // 2
        stages = np.repeat(steps[-self.pndm_order :], 2)
        stages[1::2] += half
        self.prk_timesteps = np.repeat(stages[:-1], 2)[1:-1][::-1].copy()
        self.plms_timesteps = steps[: 1 - self.pndm_order][::-1].copy()
        both = np.concatenate((self.prk_timesteps, self.plms_timesteps))
        self.timesteps = Tensor(both.astype(np.int64))


class KDPM2AncestralDiscreteScheduler(library.KDPM2AncestralDiscreteScheduler):
    """DPM2 with ancestral steps; the library's constructor needs operators without CPU kernels."""

    def set_timesteps(
        self, num_inference_steps: int, num_train_timesteps: int | None = None
    ) -> None:
        """Sigmas and timesteps: every step but the first has a stage at its middle.

        From sigma to sigma' a step goes down to sigma'^2 / sigma and adds noise of the standard
        deviation sigma' sqrt(1 - (sigma' / sigma)^2); the middle is the geometric mean of where it
        starts and of where it goes down to (k-diffusion's `sample_dpm_2_ancestral`). The library
        subtracts squares in float32, which loses the smaller one in runs of few steps.
        """
        self.num_inference_steps = num_inference_steps
        train = num_train_timesteps or self.config.num_train_timesteps
        timesteps = _spaced(self.config, num_inference_steps, train)
        alpha_bar = self.alphas_cumprod.asnumpy()
        table = ((1 - alpha_bar) / alpha_bar) ** 0.5
        sigmas = np.interp(timesteps, np.arange(len(table)), table)
        sigmas, timesteps = _respaced(self, sigmas, timesteps, np.log(table))
        sigmas_next = np.append(sigmas[1:], 0.0)
        up = sigmas_next * np.sqrt(1 - (sigmas_next / sigmas) ** 2)
        down = sigmas_next**2 / sigmas
        sigmas, up, down = (np.append(values, 0.0) for values in (sigmas, up, down))
        middle = np.sqrt(sigmas * down)
        tables = {"sigmas": sigmas, "sigmas_interpol": middle, "sigmas_up": up}
        for name, values in (tables | {"sigmas_down": down}).items():
            doubled = np.concatenate((values[:1], np.repeat(values[1:], 2), values[-1:]))
            setattr(self, name, Tensor(doubled.astype(np.float32)))
        self.log_sigmas = Tensor(np.log(table).astype(np.float32))
        between = np.array([self._sigma_to_t(sigma, np.log(table)) for sigma in middle[:-2]])
        pairs = np.stack((between, timesteps[1:]), -1).reshape(-1)
        self.timesteps = Tensor(np.append(timesteps[:1], pairs).astype(np.float32))
        self.sample = None
        self._step_index = self._begin_index = None


class DEISMultistepScheduler(library.DEISMultistepScheduler):
    """DEIS of second order without arithmetic between Tensors and NumPy scalars."""

    def multistep_deis_second_order_update(
        self, model_output_list: list[Tensor], *_: Any, sample: Tensor, **__: Any
    ) -> Tensor:
        """A step from two outputs, interpolated over log rho (DEIS, equation 15); rho is sigma.

        The library divides a Tensor by a NumPy scalar, which MindSpore 2.7 refuses.
        """
        (alpha_t, t), (alpha_s, s), (_alpha, r) = (
            (_point(self, i)[0], float(host_table(self, "sigmas")[i]))
            for i in (self.step_index + 1, self.step_index, self.step_index - 1)
        )
        newer = _log_weight(t, s, r) - _log_weight(s, s, r)
        older = _log_weight(t, r, s) - _log_weight(s, r, s)
        mixed = model_output_list[-1] * newer + model_output_list[-2] * older
        return ((sample * (1.0 / alpha_s) + mixed) * alpha_t).astype(sample.dtype)


class UniPCMultistepScheduler(library.UniPCMultistepScheduler):
    """UniPC whose coefficients are Python floats."""

    def multistep_uni_p_bh_update(
        self, model_output: Tensor, *, sample: Tensor, order: int, **_: Any
    ) -> Tensor:
        """UniP: from the sample of this step to the next one (UniPC, algorithm 2)."""
        if self.solver_p:
            return self.solver_p.step(model_output, self.timestep_list[-1], sample)[0]
        return _unipc_update(self, sample, self.step_index, order, None)

    def multistep_uni_c_bh_update(
        self, this_model_output: Tensor, *, last_sample: Tensor, order: int, **_: Any
    ) -> Tensor:
        """UniC: this step's sample corrected by the network's output for it (algorithm 1)."""
        return _unipc_update(self, last_sample, self.step_index - 1, order, this_model_output)


REPAIRED: dict[str, Any] = {
    "DDPMScheduler": DDPMScheduler,
    "PNDMScheduler": PNDMScheduler,
    "KDPM2AncestralDiscreteScheduler": KDPM2AncestralDiscreteScheduler,
    "DEISMultistepScheduler": DEISMultistepScheduler,
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
}


def class_of(name: str) -> Any:
    """The scheduler class of this name: the subclass above, or else the library's class."""
    return REPAIRED[name] if name in REPAIRED else getattr(library, name)


def host_table(scheduler: Any, name: str) -> np.ndarray:
    """The table `scheduler.<name>` as float64 or int64, fetched once per `set_timesteps`."""
    source = getattr(scheduler, name)
    cached = getattr(scheduler, f"_host_{name}", None)
    if cached is None or cached[0] is not source:
        array = source.asnumpy()
        wide = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
        cached = (source, array.astype(wide))
        setattr(scheduler, f"_host_{name}", cached)
    return cached[1]


def _spaced(config: Any, count: int, train: int) -> np.ndarray:
    """`count` descending timesteps, float32 (Common Diffusion Noise Schedules, table 2)."""
    if config.timestep_spacing == "linspace":
        return np.linspace(0, train - 1, count, dtype=np.float32)[::-1].copy()
    if config.timestep_spacing == "leading":
        steps = (np.arange(count) * (train // count))[::-1] + config.steps_offset
        return steps.astype(np.float32)
    if config.timestep_spacing == "trailing":
        return np.arange(train, 0, -train / count).round().astype(np.float32) - 1
    raise ValueError(
        "`timestep_spacing` must be linspace, leading or trailing, "
        f"got {config.timestep_spacing!r}."
    )


def _respaced(
    scheduler: Any, sigmas: np.ndarray, timesteps: np.ndarray, log_table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sigmas spaced as the configuration asks, and the timesteps that they belong to."""
    for option, spacing, rounded in (
        ("use_karras_sigmas", "_convert_to_karras", True),
        ("use_exponential_sigmas", "_convert_to_exponential", False),
        ("use_beta_sigmas", "_convert_to_beta", False),
    ):
        if getattr(scheduler.config, option, False):
            count = scheduler.num_inference_steps
            sigmas = getattr(scheduler, spacing)(sigmas, num_inference_steps=count)
            times = np.array([scheduler._sigma_to_t(sigma, log_table) for sigma in sigmas])
            return sigmas, times.round() if rounded else times
    return sigmas, timesteps


def _log_weight(t: float, b: float, c: float) -> float:
    """The integral up to t of (log t - log c) / (log b - log c)."""
    if t <= 0:
        return 0.0
    return t * (math.log(t) - math.log(c) - 1) / (math.log(b) - math.log(c))


def _unipc_update(
    scheduler: Any, x: Tensor, start: int, order: int, current: Tensor | None
) -> Tensor:
    """x from the sigma of index `start` to the next one (UniPC, equations 3, 8 and 9).

    A sum of x and of network outputs; the coefficients come from the schedule, as Python floats.
    """
    outputs = scheduler.model_outputs
    alpha_t, sigma_t, lambda_t = _point(scheduler, start + 1)
    alpha_s, sigma_s, lambda_s = _point(scheduler, start)
    h = lambda_t - lambda_s
    ratios = [(_point(scheduler, start - i)[2] - lambda_s) / h for i in range(1, order)]
    hh = -h if scheduler.predict_x0 else h
    h_phi_1 = math.expm1(hh)
    B_h = hh if scheduler.config.solver_type == "bh1" else h_phi_1
    rhos = _unipc_rhos(ratios, hh, h_phi_1, B_h, corrects=current is not None)
    x_coefficient, output_scale = (
        (sigma_t / sigma_s, alpha_t) if scheduler.predict_x0 else (alpha_t / alpha_s, sigma_t)
    )
    y = x * x_coefficient - outputs[-1] * (output_scale * h_phi_1)
    # `rhos` has one more when correcting.
    for i, (rho, ratio) in enumerate(zip(rhos, ratios, strict=False), start=2):
        y = y - (outputs[-i] - outputs[-1]) * (output_scale * B_h * rho / ratio)
    if current is not None:
        y = y - (current - outputs[-1]) * (output_scale * B_h * rhos[-1])
    return y.astype(x.dtype)


def _unipc_rhos(
    ratios: list[float], hh: float, h_phi_1: float, B_h: float, corrects: bool
) -> list[float]:
    """rho of each older output and, if `corrects`, of the current one (equation 10)."""
    order = len(ratios) + 1
    if corrects and order == 1:
        return [0.5]
    if not corrects and order <= 2:
        return [0.5] * (order - 1)
    powers = np.vander([*ratios, 1.0], increasing=True).T
    right, phi = [], h_phi_1 / hh - 1
    for k in range(1, order + 1):
        right.append(phi * math.factorial(k) / B_h)
        phi = phi / hh - 1 / math.factorial(k + 1)
    last = order if corrects else order - 1
    return [float(rho) for rho in np.linalg.solve(powers[:last, :last], right[:last])]


def _point(scheduler: Any, index: int) -> tuple[float, float, float]:
    """alpha, sigma and lambda = log(alpha / sigma) at `index` of the schedule."""
    sigma = float(host_table(scheduler, "sigmas")[index])
    alpha = 1 - sigma if scheduler.config.use_flow_sigmas else 1 / math.sqrt(sigma**2 + 1)
    scaled = sigma if scheduler.config.use_flow_sigmas else sigma * alpha
    return alpha, scaled, _log(alpha) - _log(scaled)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
