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

from latte_ms.schedulers import discrete
from latte_ms.schedulers.tables import host_table, spaced


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
        timesteps = spaced(self.config, num_inference_steps, train).astype(np.float32)
        alpha_bar = self.alphas_cumprod.asnumpy()
        table = ((1 - alpha_bar) / alpha_bar) ** 0.5
        sigmas = np.interp(timesteps, np.arange(len(table)), table)
        sigmas, timesteps = _converted_sigmas(self, sigmas, timesteps, np.log(table))
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
    """DEIS that ends at the clean sample, with coefficients that are Python floats.

    The library ends at the noise of timestep 0, as diffusers does. It divides a Tensor by a NumPy
    scalar in the update of second order, which MindSpore 2.7 refuses.
    """

    like_diffusers = False

    def set_timesteps(self, num_inference_steps: int, mu: float | None = None) -> None:
        """Sigmas and timesteps; the last sigma is 0."""
        super().set_timesteps(num_inference_steps, mu)
        if not self.like_diffusers:
            sigmas = host_table(self, "sigmas").astype(np.float32)
            self.sigmas = Tensor(np.append(sigmas[:-1], np.float32(0)))

    def deis_first_order_update(
        self, model_output: Tensor, *_: Any, sample: Tensor, **__: Any
    ) -> Tensor:
        """A step from one output, which is DDIM's; rho is sigma / alpha."""
        (alpha_t, t), (alpha_s, s) = (self._rho(self.step_index + i) for i in (1, 0))
        x = sample * (1.0 / alpha_s) + model_output * (t - s)
        return (x * alpha_t).astype(sample.dtype)

    def multistep_deis_second_order_update(
        self, model_output_list: list[Tensor], *_: Any, sample: Tensor, **__: Any
    ) -> Tensor:
        """A step from two outputs, interpolated over log rho (DEIS, equation 15)."""
        (alpha_t, t), (alpha_s, s), (_alpha, r) = (
            self._rho(self.step_index + i) for i in (1, 0, -1)
        )
        if t == 0:  # log rho is -inf there
            return self.deis_first_order_update(model_output_list[-1], sample=sample)
        newer = _log_weight(t, s, r) - _log_weight(s, s, r)
        older = _log_weight(t, r, s) - _log_weight(s, r, s)
        mixed = model_output_list[-1] * newer + model_output_list[-2] * older
        return ((sample * (1.0 / alpha_s) + mixed) * alpha_t).astype(sample.dtype)

    def multistep_deis_third_order_update(
        self, model_output_list: list[Tensor], *_: Any, sample: Tensor, **__: Any
    ) -> Tensor:
        """A step from three outputs, as the library's unless it leads to the clean sample."""
        if self._rho(self.step_index + 1)[1] == 0:
            return self.deis_first_order_update(model_output_list[-1], sample=sample)
        return super().multistep_deis_third_order_update(model_output_list, sample=sample)

    def _rho(self, index: int) -> tuple[float, float]:
        """alpha and rho at `index` of the schedule."""
        alpha, sigma, _ = _point(self, index)
        return alpha, sigma / alpha


class UniPCMultistepScheduler(library.UniPCMultistepScheduler):
    """UniPC whose coefficients are Python floats."""

    def multistep_uni_p_bh_update(
        self, model_output: Tensor, *, sample: Tensor, order: int, **_: Any
    ) -> Tensor:
        """UniP: from the sample of this step to the next one (UniPC, algorithm 2)."""
        if self.solver_p:
            return self.solver_p.step(model_output, self.timestep_list[-1], sample)[0]
        if (
            host_table(self, "sigmas")[self.step_index + 1] == 0
        ):  # lambda is infinite there: first order is all there is
            order = 1
        return _unipc_update(self, sample, self.step_index, order, None)

    def multistep_uni_c_bh_update(
        self, this_model_output: Tensor, *, last_sample: Tensor, order: int, **_: Any
    ) -> Tensor:
        """UniC: this step's sample corrected by the network's output for it (algorithm 1)."""
        return _unipc_update(self, last_sample, self.step_index - 1, order, this_model_output)


REPAIRED: dict[str, Any] = {
    "DDIMScheduler": discrete.DDIMScheduler,
    "DDPMScheduler": discrete.DDPMScheduler,
    "PNDMScheduler": discrete.PNDMScheduler,
    "TCDScheduler": discrete.TCDScheduler,
    "KDPM2AncestralDiscreteScheduler": KDPM2AncestralDiscreteScheduler,
    "DEISMultistepScheduler": DEISMultistepScheduler,
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
}


def class_of(name: str) -> Any:
    """The scheduler class of this name: the subclass above, or else the library's class."""
    return REPAIRED[name] if name in REPAIRED else getattr(library, name)


def _converted_sigmas(
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
    """The integral over u up to t of (log u - log c) / (log b - log c)."""
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
    if scheduler.predict_x0:
        x_coefficient, output_scale, weight = sigma_t / sigma_s, alpha_t, alpha_t * h_phi_1
    else:  # the weight is sigma_t h_phi_1, and finite where sigma_t is 0
        x_coefficient, output_scale = alpha_t / alpha_s, sigma_t
        weight = sigma_s * x_coefficient - sigma_t
    y = x * x_coefficient - outputs[-1] * weight
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
