"""The Gaussian diffusion process on the device: noising, posterior, and the model's own step.

Notation: x_t is the noised sample at index t of the schedule, eps the noise in it; the channel axis
is 2 of (B, F, C, h, w). All coefficients of a schedule lie in one float32 table on the device, and
a compiled graph gathers its column by an int32 index, once per step, so a step uploads nothing.
"""

from typing import Literal, TypeAlias, get_args

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels
from latte_ms.options import one_of

Variance = Literal["learned_range", "fixed_small", "fixed_large"]
Prediction = Literal["epsilon", "x0"]

Coefficients: TypeAlias = dict[str, Tensor]  # by the names of `coefficient_table`


def coefficient_table(schedule: Schedule, variance: Variance) -> dict[str, np.ndarray]:
    """Every coefficient of the process for every index: each (T,), computed in float64."""
    alpha_bar = schedule.alphas_cumprod
    ratio = np.sqrt(1 / alpha_bar - 1)
    fixed = schedule.posterior_variance
    fixed_log = schedule.posterior_log_variance_clipped
    if variance == "fixed_large":
        # Step 0 takes the posterior's variance at step 1: beta would leave too much noise.
        fixed = np.append(np.exp(fixed_log[0]), schedule.betas[1:])
        fixed_log = np.log(fixed)
    return {
        "signal": np.sqrt(alpha_bar),  # sqrt(alpha_bar): x_t = signal x_0 + noise eps
        "noise": np.sqrt(1 - alpha_bar),  # sqrt(1 - alpha_bar)
        "x_to_x0": np.sqrt(1 / alpha_bar),  # x_0 = x_to_x0 x_t - eps_to_x0 eps
        "eps_to_x0": ratio,
        "x0_to_eps": 1 / ratio,  # eps = x0_to_eps (x_to_x0 x_t - x_0)
        "x0_to_mean": schedule.posterior_mean_coef1,  # mean = x0_to_mean x_0 + x_to_mean x_t
        "x_to_mean": schedule.posterior_mean_coef2,
        "posterior_log_variance": schedule.posterior_log_variance_clipped,
        "log_beta": np.log(schedule.betas),
        "fixed_variance": fixed,  # that of the model's step where it is not learned
        "fixed_log_variance": fixed_log,
        "timestep": schedule.timestep_map,  # in the training schedule; exact in float32
        "adds_noise": np.arange(schedule.num_steps) > 0,  # the last step adds no noise
    }


class ScheduleTable(nn.Cell):
    """Named coefficients of a schedule on the device, gathered by index inside a graph."""

    def __init__(self, coefficients: dict[str, np.ndarray]) -> None:
        """`coefficients` maps each name to its (T,) values."""
        super().__init__(auto_prefix=False)
        rows = np.stack([np.asarray(values, np.float64) for values in coefficients.values()])
        self.names = tuple(coefficients)
        self.rows = Tensor(rows.astype(np.float32))

    def construct(self, index: Tensor) -> Coefficients:
        """Each coefficient as (B, 1, 1, 1, 1), for int32 index (B,)."""
        values = kernels.gather_columns(self.rows, index)  # (K, B)
        parts = kernels.split(values.reshape(-1, 1, 1, 1, 1), index.shape[0], 0)
        # Not dict(zip(...)), which a graph leaves to Python: its values would have no static shape.
        return {self.names[i]: parts[i] for i in range(len(self.names))}


class DiffusionProcess(nn.Cell):
    """Noising and denoising distributions of a schedule, for use inside a compiled graph.

    Args:
        schedule: the chain; indices below count its steps.
        prediction: what the network predicts, "epsilon" (the noise) or "x0" (the clean sample).
        variance: that of the model's step. "learned_range": the network's second half of channels
            interpolates between the bounds; "fixed_small": the posterior's; "fixed_large": beta.
        clip_denoised: clamp every estimate of x_0 to [-1, 1]; latents are not bounded, so False.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        prediction: Prediction = "epsilon",
        variance: Variance = "learned_range",
        clip_denoised: bool = False,
    ) -> None:
        # Without auto_prefix=False the networks inside such cells would get new parameter names.
        super().__init__(auto_prefix=False)
        one_of(*get_args(Prediction))("prediction", prediction)
        one_of(*get_args(Variance))("variance", variance)
        self.prediction = prediction
        self.learns_variance = variance == "learned_range"
        self.clip_denoised = clip_denoised
        self.table = ScheduleTable(coefficient_table(schedule, variance))

    def coefficients(self, index: Tensor) -> Coefficients:
        """The coefficients at index (B,) or (1,) int32, which the other methods take."""
        return self.table(index)

    def timesteps(self, coefficients: Coefficients) -> Tensor:
        """Timesteps of the training schedule: (B,) int32."""
        return coefficients["timestep"].reshape(-1).astype(ms.int32)

    def q_sample(self, x0: Tensor, noise: Tensor, coefficients: Coefficients) -> Tensor:
        """A sample of q(x_t | x_0), x0 and noise (B, F, C, h, w) (DDPM, equation 4)."""
        return coefficients["signal"] * x0 + coefficients["noise"] * noise

    def q_posterior_mean(self, x0: Tensor, x_t: Tensor, coefficients: Coefficients) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0), (B, F, C, h, w) (DDPM, equation 7)."""
        return coefficients["x0_to_mean"] * x0 + coefficients["x_to_mean"] * x_t

    def split_output(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Prediction and variance values v of a network's output, each (B, F, C, h, w).

        v is Improved DDPM's interpolation coefficient, on the scale from -1 (the posterior's
        log-variance) to 1 (log beta). With a fixed variance there is none, and the prediction is
        returned twice.
        """
        expected = 2 * channels if self.learns_variance else channels
        if output.shape[2] != expected:
            raise ValueError(
                f"The denoiser's output must have {expected} channels for samples of {channels} "
                f"and learned variance {self.learns_variance}, got {output.shape[2]}."
            )
        if not self.learns_variance:
            return output, output
        return kernels.split_first(output, channels, 2)

    def to_x0_and_eps(
        self, prediction: Tensor, x_t: Tensor, coefficients: Coefficients
    ) -> tuple[Tensor, Tensor]:
        """The clean sample and the noise that the network's prediction stands for."""
        x0 = prediction
        if self.prediction == "epsilon":
            x0 = coefficients["x_to_x0"] * x_t - coefficients["eps_to_x0"] * prediction
        if self.clip_denoised:
            x0 = kernels.clamp(x0, -1.0, 1.0)
        elif self.prediction == "epsilon":
            return x0, prediction
        return x0, coefficients["x0_to_eps"] * (coefficients["x_to_x0"] * x_t - x0)

    def log_variance(self, values: Tensor, coefficients: Coefficients) -> Tensor:
        """The model's log-variance (Improved DDPM, equation 15) for `values` v (B, F, C, h, w)."""
        if not self.learns_variance:
            return ops.broadcast_to(coefficients["fixed_log_variance"], values.shape)
        low, high = coefficients["posterior_log_variance"], coefficients["log_beta"]
        return low + 0.5 * (values + 1.0) * (high - low)

    def p_mean_variance(
        self, output: Tensor, x_t: Tensor, coefficients: Coefficients
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The model's p(x_{t-1} | x_t): mean, variance, log-variance and estimate of x_0.

        Args:
            output: that of the network, (B, F, C or 2C, h, w).
            x_t: (B, F, C, h, w).
        Returns:
            Four (B, F, C, h, w) float32. A fixed variance is 0 at index 0 for "fixed_small",
            where its log-variance is that of index 1.
        Raises:
            ValueError: the output's channels do not fit the variance.
        """
        prediction, values = self.split_output(output, x_t.shape[2])
        x0, _ = self.to_x0_and_eps(prediction, x_t, coefficients)
        mean = self.q_posterior_mean(x0, x_t, coefficients)
        log_variance = self.log_variance(values, coefficients)
        if self.learns_variance:
            return mean, kernels.exp(log_variance), log_variance, x0
        fixed = ops.broadcast_to(coefficients["fixed_variance"], x_t.shape)
        return mean, fixed, log_variance, x0
