"""Training losses of a denoiser: squared error of the prediction, variational bound, or both."""

import math
from typing import Literal, get_args

from mindspore import Tensor, nn, ops

from latte_ms.diffusion.process import (
    Coefficients,
    DiffusionProcess,
    Prediction,
    Variance,
)
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels
from latte_ms.options import one_of

Loss = Literal["mse", "rescaled_mse", "kl", "rescaled_kl"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

_HALF_BIN = 1 / 255  # half the width of one of 256 levels over [-1, 1]
_LEAST_PROBABILITY = 1e-12
_BITS_PER_NAT = 1 / math.log(2)
_NON_BATCH_AXES = (1, 2, 3, 4)


def normal_kl(mean_p: Tensor, log_var_p: Tensor, mean_q: Tensor, log_var_q: Tensor) -> Tensor:
    """KL(p || q) of diagonal Gaussians in nats, elementwise."""
    ratio = kernels.exp(log_var_p - log_var_q)
    distance = ops.square(mean_p - mean_q) * kernels.exp(-log_var_q)
    return 0.5 * (log_var_q - log_var_p - 1.0 + ratio + distance)


def normal_cdf(x: Tensor) -> Tensor:
    """Tanh approximation of the standard normal distribution function.

    The tanh kernel on CPU is wrong by 1e-4, so tanh u is computed as 1 - 2 sigmoid(-2u), on the
    side where the sigmoid is small. The sum with 1 rounds as the reference's does: beyond five
    standard deviations a probability is only a few float32 steps, and its logarithm shows them.
    """
    two_u = math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x)
    two_sigmoid, two_sigmoid_neg = 2.0 * ops.sigmoid(two_u), 2.0 * ops.sigmoid(-two_u)
    return 0.5 * (1.0 + kernels.where(x < 0.0, two_sigmoid - 1.0, 1.0 - two_sigmoid_neg))


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability in nats of the bin of width 2/255 around x, under a Gaussian.

    The bins of values below -0.999 or above 0.999 reach to infinity (DDPM, equation 13).
    """
    inverse_std = kernels.exp(-0.5 * log_variance)
    upper = normal_cdf(inverse_std * (x - mean + _HALF_BIN))
    lower = normal_cdf(inverse_std * (x - mean - _HALF_BIN))
    probability = kernels.where(
        x < -0.999, upper, kernels.where(x > 0.999, 1.0 - lower, upper - lower)
    )
    return ops.log(kernels.clamp(probability, _LEAST_PROBABILITY, None))


class DiffusionLoss(nn.Cell):
    """Loss terms of a denoiser, one value per sample.

    Args:
        denoiser: cell (x_t, t, **conditions) -> (B, F, C or 2C, h, w); keeps its parameter names.
        schedule: the training chain.
        loss: "mse": squared error, plus the variational bound where the variance is learned, the
            bound unscaled and with no gradient to the mean (Improved DDPM, section 3.1).
            "rescaled_mse": the same with the bound times T / 1000. "kl": the bound alone.
            "rescaled_kl": the bound times T.
        prediction, variance: as in `DiffusionProcess`.
    """

    def __init__(
        self,
        denoiser: nn.Cell,
        schedule: Schedule,
        *,
        loss: Loss = "mse",
        prediction: Prediction = "epsilon",
        variance: Variance = "learned_range",
    ) -> None:
        super().__init__(auto_prefix=False)
        one_of(*LOSSES)("loss", loss)
        self.denoiser = denoiser
        self.process = DiffusionProcess(schedule, prediction=prediction, variance=variance)
        self.uses_squared_error = loss in ("mse", "rescaled_mse")
        scales = {"rescaled_mse": schedule.num_steps / 1000, "rescaled_kl": schedule.num_steps}
        self.bound_scale = float(scales.get(loss, 1))

    def construct(
        self, x0: Tensor, noise: Tensor, index: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, squared error and variational bound.

        Args:
            x0: clean samples (B, F, C, h, w).
            noise: standard normal, like x0.
            index: (B,) int32, steps of the schedule; one per video, shared by its frames.
            conditions: those that the denoiser takes.
        Returns:
            Three (B,) float32. The first is the loss. The bound is in bits per dimension, for
            "rescaled_mse" already scaled; it is 0 where no part of the loss needs it.
        """
        coefficients = self.process.coefficients(index)
        x_t = self.process.q_sample(x0, noise, coefficients)
        output = self.denoiser(x_t, self.process.timesteps(coefficients), **conditions)
        prediction, values = self.process.split_output(output, x0.shape[2])
        target = noise
        if self.process.prediction == "x0":
            target = x0
        error = kernels.mean(ops.square(target - prediction), _NON_BATCH_AXES)
        if not self.uses_squared_error:
            bound = self.bound(prediction, values, x0, x_t, index, coefficients)
            return self.bound_scale * bound, error, bound
        if not self.process.learns_variance:
            return error, error, error * 0.0
        # The bound trains the variance only: only the squared error shapes the mean.
        frozen = ops.stop_gradient(prediction)
        bound = self.bound_scale * self.bound(frozen, values, x0, x_t, index, coefficients)
        return error + bound, error, bound

    def bound(
        self,
        prediction: Tensor,
        values: Tensor,
        x0: Tensor,
        x_t: Tensor,
        index: Tensor,
        coefficients: Coefficients,
    ) -> Tensor:
        """The variational bound's term at `index` in bits per dimension: (B,).

        KL of posterior and model; at index 0 the likelihood of x0 itself (DDPM, equation 5).
        """
        estimate, _ = self.process.predict(prediction, x_t, coefficients)
        mean = self.process.q_posterior_mean(estimate, x_t, coefficients)
        log_variance = self.process.log_variance(values, coefficients)
        true_mean = self.process.q_posterior_mean(x0, x_t, coefficients)
        kl = normal_kl(true_mean, coefficients["posterior_log_variance"], mean, log_variance)
        likelihood = discretised_log_likelihood(x0, mean, log_variance)
        nats = kernels.where(
            index == 0,
            -kernels.mean(likelihood, _NON_BATCH_AXES),
            kernels.mean(kl, _NON_BATCH_AXES),
        )
        return _BITS_PER_NAT * nats
