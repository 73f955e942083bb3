"""The Gaussian diffusion process on the device: noising, posterior, and the model's own step.

Notation: x_t is the noised sample at index t of the schedule, eps the noise in it; the channel axis
is 2 of (B, F, C, H, W). All coefficients of a schedule lie in one float32 table on the device, and
a compiled graph gathers its column by an int32 index, so a step uploads nothing.
"""

from typing import Literal, get_args

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels

Variance = Literal["learned_range", "fixed_small", "fixed_large"]
Prediction = Literal["epsilon", "x0"]

# Rows of the coefficient table.
(
    SIGNAL,  # x_t = SIGNAL x_0 + NOISE eps
    NOISE,
    X_TO_X0,  # x_0 = X_TO_X0 x_t - EPS_TO_X0 eps
    EPS_TO_X0,
    X0_TO_EPS,  # eps = X0_TO_EPS (X_TO_X0 x_t - x_0)
    X0_TO_MEAN,  # posterior mean = X0_TO_MEAN x_0 + X_TO_MEAN x_t
    X_TO_MEAN,
    POSTERIOR_VARIANCE,
    POSTERIOR_LOG_VARIANCE,
    LOG_BETA,
    FIXED_VARIANCE,  # of the model, where it is not learned
    FIXED_LOG_VARIANCE,
    TIMESTEP,  # of the training schedule; exact in float32
    IS_NOISY,  # 0 at the last step, which adds no noise, else 1
) = range(14)


def coefficient_table(schedule: Schedule, variance: Variance) -> np.ndarray:
    """The rows named above for every index: (14, T) float32, computed in float64."""
    signal, noise = schedule.alphas_cumprod, 1 - schedule.alphas_cumprod
    fixed = schedule.posterior_variance
    fixed_log = schedule.posterior_log_variance_clipped
    if variance == "fixed_large":
        # Step 0 takes the posterior's value: beta there would decode with too much noise.
        fixed = np.append(np.exp(fixed_log[0]), schedule.betas[1:])
        fixed_log = np.log(fixed)
    ratio = np.sqrt(1 / signal - 1)
    rows = (
        np.sqrt(signal),
        np.sqrt(noise),
        np.sqrt(1 / signal),
        ratio,
        1 / ratio,
        schedule.posterior_mean_coef1,
        schedule.posterior_mean_coef2,
        schedule.posterior_variance,
        schedule.posterior_log_variance_clipped,
        np.log(schedule.betas),
        fixed,
        fixed_log,
        schedule.timestep_map,
        np.arange(schedule.num_steps) > 0,
    )
    return np.stack([np.asarray(row, np.float64) for row in rows]).astype(np.float32)


class ScheduleTable(nn.Cell):
    """Coefficients of a schedule on the device, gathered by index inside a graph."""

    def __init__(self, rows: np.ndarray) -> None:
        """`rows` (K, T) float32."""
        super().__init__(auto_prefix=False)
        self.rows = Tensor(rows, ms.float32)

    def construct(self, index: Tensor) -> tuple[Tensor, ...]:
        """K coefficients, each (B, 1, 1, 1, 1), for int32 index (B,)."""
        columns = kernels.gather_columns(self.rows, index)  # (K, B)
        return kernels.split(columns.reshape(-1, 1, 1, 1, 1), index.shape[0], 0)


class DiffusionProcess(nn.Cell):
    """Noising and denoising distributions of a schedule, for use inside a compiled graph.

    Args:
        schedule: the chain; indices below count its steps.
        prediction: what the network predicts, "epsilon" (the noise) or "x0" (the clean sample).
        variance: of the model's step. "learned_range": the network's second half of channels
            interpolates between the bounds; "fixed_small": the posterior's; "fixed_large": beta.
        clip_denoised: clip every estimate of x_0 to [-1, 1]; latents are not bounded, so False.
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
        check_word("prediction", prediction, get_args(Prediction))
        check_word("variance", variance, get_args(Variance))
        self.prediction = prediction
        self.learned = variance == "learned_range"
        self.clip_denoised = clip_denoised
        self.table = ScheduleTable(coefficient_table(schedule, variance))

    def timesteps(self, index: Tensor) -> Tensor:
        """Timesteps of the training schedule for index (B,): (B,) int32."""
        return self.table(index)[TIMESTEP].reshape(-1).astype(ms.int32)

    def q_sample(self, x0: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """A sample of q(x_t | x_0), x0 and noise (B, F, C, H, W) (DDPM, equation 4)."""
        c = self.table(index)
        return c[SIGNAL] * x0 + c[NOISE] * noise

    def q_posterior(self, x0: Tensor, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0) (DDPM, equation 7).

        The mean is (B, F, C, H, W), the variances are (B, 1, 1, 1, 1).
        """
        c = self.table(index)
        mean = c[X0_TO_MEAN] * x0 + c[X_TO_MEAN] * x_t
        return mean, c[POSTERIOR_VARIANCE], c[POSTERIOR_LOG_VARIANCE]

    def split_output(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Prediction and variance values of a network's output, each (B, F, C, H, W).

        With a fixed variance there are no values, and the prediction is given twice.
        """
        expected = 2 * channels if self.learned else channels
        if output.shape[2] != expected:
            raise ValueError(
                f"The denoiser's output must have {expected} channels for samples of {channels} "
                f"and learned variance {self.learned}, got {output.shape[2]}."
            )
        if not self.learned:
            return output, output
        return kernels.split_first(output, channels, 2)

    def predict(self, prediction: Tensor, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The clean sample and the noise that the network's prediction stands for."""
        c = self.table(index)
        x0 = prediction
        if self.prediction == "epsilon":
            x0 = c[X_TO_X0] * x_t - c[EPS_TO_X0] * prediction
        if self.clip_denoised:
            x0 = kernels.clamp(x0, -1.0, 1.0)
        elif self.prediction == "epsilon":
            return x0, prediction
        return x0, c[X0_TO_EPS] * (c[X_TO_X0] * x_t - x0)

    def log_variance(self, values: Tensor, index: Tensor) -> Tensor:
        """The model's log-variance (Improved DDPM, equation 15), values (B, F, C, H, W)."""
        c = self.table(index)
        if not self.learned:
            return ops.broadcast_to(c[FIXED_LOG_VARIANCE], values.shape)
        low, high = c[POSTERIOR_LOG_VARIANCE], c[LOG_BETA]
        return low + 0.5 * (values + 1.0) * (high - low)

    def p_mean_variance(
        self, output: Tensor, x_t: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The model's p(x_{t-1} | x_t): mean, variance, log-variance and estimate of x_0.

        Args:
            output: of the network, (B, F, C or 2C, H, W).
            x_t: (B, F, C, H, W).
            index: (B,) or (1,) int32, steps of the schedule.
        Returns:
            Four (B, F, C, H, W) float32. A fixed variance is 0 at index 0 for "fixed_small", while
            its log-variance is clipped.
        Raises:
            ValueError: the output's channels do not fit the variance.
        """
        prediction, values = self.split_output(output, x_t.shape[2])
        x0, _ = self.predict(prediction, x_t, index)
        mean, _, _ = self.q_posterior(x0, x_t, index)
        log_variance = self.log_variance(values, index)
        if self.learned:
            return mean, kernels.exp(log_variance), log_variance, x0
        fixed = ops.broadcast_to(self.table(index)[FIXED_VARIANCE], x_t.shape)
        return mean, fixed, log_variance, x0


def check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the `allowed` words."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}.")
