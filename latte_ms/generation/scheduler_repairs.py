"""What mindone's schedulers lack, put right in their classes.

Three of them use operators that have no CPU kernel (one in its constructor, so that no object can
be had to be put right), or wait for the device at every step. Their scalar arithmetic belongs on
the host: it depends on the schedule alone, never on a sample. Every method here takes the place of
the library's and gives its results.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import Tensor


def repair(library: Any) -> None:
    """Put the methods of this file into the classes of the module `library`; again does nothing."""
    for kind, methods in REPAIRS.items():
        for name, method in methods.items():
            setattr(getattr(library, kind), name, method)


def host_table(scheduler: Any, name: str) -> np.ndarray:
    """The table `scheduler.<name>` as float64 or int64, fetched once per `set_timesteps`."""
    source = getattr(scheduler, name)
    held = getattr(scheduler, f"_host_{name}", None)
    if held is None or held[0] is not source:
        array = source.asnumpy()
        wide = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
        held = (source, array.astype(wide))
        setattr(scheduler, f"_host_{name}", held)
    return held[1]


def previous_timestep(self: Any, timestep: int) -> int:
    """The timestep after `timestep` on the way down, -1 behind the last."""
    if not (self.custom_timesteps or self.num_inference_steps):
        return timestep - 1
    timesteps = host_table(self, "timesteps")
    later = int(np.flatnonzero(timesteps == timestep)[0]) + 1
    return int(timesteps[later]) if later < len(timesteps) else -1


def set_kdpm2_timesteps(
    self: Any, num_inference_steps: int, num_train_timesteps: int | None = None
) -> None:
    """Sigmas and timesteps of DPM2 with ancestral steps: every step but the first goes halfway.

    From sigma to sigma' a step goes down to sigma'^2 / sigma and adds noise of the size
    sigma' sqrt(1 - (sigma' / sigma)^2); halfway is the geometric mean of where it starts and of
    where it goes down to (k-diffusion's `sample_dpm_2_ancestral`). The library subtracts squares in
    float32, which leaves nothing of the smaller one in runs of few steps.
    """
    self.num_inference_steps = num_inference_steps
    train = num_train_timesteps or self.config.num_train_timesteps
    timesteps = _spaced(self.config, num_inference_steps, train)
    kept = self.alphas_cumprod.asnumpy()
    table = ((1 - kept) / kept) ** 0.5
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    sigmas, timesteps = _respaced(self, sigmas, timesteps, np.log(table))
    after = np.append(sigmas[1:], 0.0)
    up, down = after * np.sqrt(1 - (after / sigmas) ** 2), after**2 / sigmas
    sigmas, up, down = (np.append(values, 0.0) for values in (sigmas, up, down))
    halfway = np.sqrt(sigmas * down)
    tables = {"sigmas": sigmas, "sigmas_interpol": halfway, "sigmas_up": up, "sigmas_down": down}
    for name, values in tables.items():
        twice = np.concatenate((values[:1], np.repeat(values[1:], 2), values[-1:]))
        setattr(self, name, Tensor(twice.astype(np.float32)))
    self.log_sigmas = Tensor(np.log(table).astype(np.float32))
    between = np.array([self._sigma_to_t(sigma, np.log(table)) for sigma in halfway[:-2]])
    pairs = np.stack((between, timesteps[1:]), -1).reshape(-1)
    self.timesteps = Tensor(np.append(timesteps[:1], pairs).astype(np.float32))
    self.sample = None
    self._step_index = self._begin_index = None


def begin_with_runge_kutta(self: Any, count: int) -> None:
    """Let PNDM run its last `count` steps alone, the first of them by Runge-Kutta.

    The steps before are left out, and the others are what they were (PNDM, algorithm 2, from a
    later time). Cut out of the library's list, a run would begin in the midst of the four stages
    of a Runge-Kutta step, and diverge.
    """
    steps = self._timesteps[:count]  # upwards
    half = self.config.num_train_timesteps // self.num_inference_steps // 2
    stages = np.repeat(steps[-self.pndm_order :], 2)
    stages[1::2] += half
    self.prk_timesteps = np.repeat(stages[:-1], 2)[1:-1][::-1].copy()
    self.plms_timesteps = steps[: 1 - self.pndm_order][::-1].copy()
    both = np.concatenate((self.prk_timesteps, self.plms_timesteps))
    self.timesteps = Tensor(both.astype(np.int64))


def _spaced(config: Any, count: int, train: int) -> np.ndarray:
    """`count` timesteps downwards, float32 (Common Diffusion Noise Schedules, table 2)."""
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
    self: Any, sigmas: np.ndarray, timesteps: np.ndarray, log_table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sigmas spaced as the configuration asks, and the timesteps they belong to."""
    for option, spacing, rounded in (
        ("use_karras_sigmas", "_convert_to_karras", True),
        ("use_exponential_sigmas", "_convert_to_exponential", False),
        ("use_beta_sigmas", "_convert_to_beta", False),
    ):
        if getattr(self.config, option, False):
            sigmas = getattr(self, spacing)(sigmas, num_inference_steps=self.num_inference_steps)
            times = np.array([self._sigma_to_t(sigma, log_table) for sigma in sigmas])
            return sigmas, times.round() if rounded else times
    return sigmas, timesteps


def deis_second_order(
    self: Any, model_output_list: list[Tensor], *_: Any, sample: Tensor, **__: Any
) -> Tensor:
    """A step through two outputs, interpolated over log rho (DEIS, equation 15); rho is sigma.

    The library divides a Tensor by a number of numpy's, which MindSpore 2.7 refuses.
    """
    (alpha_t, t), (alpha_s, s), (_alpha, r) = (
        (_point(self, i)[0], float(host_table(self, "sigmas")[i]))
        for i in (self.step_index + 1, self.step_index, self.step_index - 1)
    )
    newer = _log_weight(t, s, r) - _log_weight(s, s, r)
    older = _log_weight(t, r, s) - _log_weight(s, r, s)
    mixed = model_output_list[-1] * newer + model_output_list[-2] * older
    return ((sample * (1.0 / alpha_s) + mixed) * alpha_t).astype(sample.dtype)


def _log_weight(t: float, b: float, c: float) -> float:
    """The integral up to t of (log t - log c) / (log b - log c)."""
    if t <= 0:
        return 0.0
    return t * (math.log(t) - math.log(c) - 1) / (math.log(b) - math.log(c))


def unipc_predict(
    self: Any, model_output: Tensor, *, sample: Tensor, order: int, **_: Any
) -> Tensor:
    """UniP: from the sample of this step to the next one's (UniPC, algorithm 2)."""
    if self.solver_p:
        return self.solver_p.step(model_output, self.timestep_list[-1], sample)[0]
    return _unipc_update(self, sample, self.step_index, order, None)


def unipc_correct(
    self: Any, this_model_output: Tensor, *, last_sample: Tensor, order: int, **_: Any
) -> Tensor:
    """UniC: this step's sample again, with the network's output for it (UniPC, algorithm 1)."""
    return _unipc_update(self, last_sample, self.step_index - 1, order, this_model_output)


def _unipc_update(self: Any, x: Tensor, start: int, order: int, current: Tensor | None) -> Tensor:
    """x from the sigma of index `start` to the next one (UniPC, equations 3, 8 and 9).

    A sum of x and of network outputs with coefficients of the schedule, in Python's floats.
    """
    outputs = self.model_outputs
    alpha_t, sigma_t, log_snr_t = _point(self, start + 1)
    alpha_s, sigma_s, log_snr_s = _point(self, start)
    h = log_snr_t - log_snr_s
    ratios = [(_point(self, start - i)[2] - log_snr_s) / h for i in range(1, order)]
    signed = -h if self.predict_x0 else h
    growth = math.expm1(signed)
    width = signed if self.config.solver_type == "bh1" else growth
    weights = _unipc_weights(ratios, signed, growth, width, corrects=current is not None)
    keep, outer = (sigma_t / sigma_s, alpha_t) if self.predict_x0 else (alpha_t / alpha_s, sigma_t)
    y = x * keep - outputs[-1] * (outer * growth)
    for i, (weight, ratio) in enumerate(zip(weights, ratios, strict=False), start=2):
        y = y - (outputs[-i] - outputs[-1]) * (outer * width * weight / ratio)
    if current is not None:
        y = y - (current - outputs[-1]) * (outer * width * weights[-1])
    return y.astype(x.dtype)


def _unipc_weights(
    ratios: list[float], signed: float, growth: float, width: float, corrects: bool
) -> list[float]:
    """rho of the older outputs and, where it corrects, of the current one (equation 10)."""
    order = len(ratios) + 1
    if corrects and order == 1:
        return [0.5]
    if not corrects and order <= 2:
        return [0.5] * (order - 1)
    powers = np.vander([*ratios, 1.0], increasing=True).T
    right, phi = [], growth / signed - 1
    for k in range(1, order + 1):
        right.append(phi * math.factorial(k) / width)
        phi = phi / signed - 1 / math.factorial(k + 1)
    last = order if corrects else order - 1
    return [float(rho) for rho in np.linalg.solve(powers[:last, :last], right[:last])]


def _point(self: Any, index: int) -> tuple[float, float, float]:
    """alpha, sigma and the logarithm of their quotient at `index` of the schedule."""
    sigma = float(host_table(self, "sigmas")[index])
    alpha = 1 - sigma if self.config.use_flow_sigmas else 1 / math.sqrt(sigma**2 + 1)
    scaled = sigma if self.config.use_flow_sigmas else sigma * alpha
    return alpha, scaled, _log(alpha) - _log(scaled)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


REPAIRS: dict[str, dict[str, Callable[..., Any]]] = {
    "DDPMScheduler": {"previous_timestep": previous_timestep},
    "DEISMultistepScheduler": {"multistep_deis_second_order_update": deis_second_order},
    "KDPM2AncestralDiscreteScheduler": {"set_timesteps": set_kdpm2_timesteps},
    "UniPCMultistepScheduler": {
        "multistep_uni_p_bh_update": unipc_predict,
        "multistep_uni_c_bh_update": unipc_correct,
    },
}
