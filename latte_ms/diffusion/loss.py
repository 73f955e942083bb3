"""Training losses of a denoiser: squared error of the prediction, variational bound, or both.

The squared error may be weighted by the signal-to-noise ratio, and contrasted with other samples.
"""

import math
from typing import Literal, get_args

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.diffusion.process import (
    Coefficients,
    DiffusionProcess,
    Prediction,
    ScheduleTable,
    Variance,
)
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels
from latte_ms.options import one_of

Loss = Literal["mse", "rescaled_mse", "kl", "rescaled_kl"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

_HALF_BIN = 1 / 255  # half the width of one of 256 levels over [-1, 1]
_MIN_PROBABILITY = 1e-12
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
    return ops.log(kernels.clamp(probability, _MIN_PROBABILITY, None))


def min_snr_weights(schedule: Schedule, prediction: Prediction, gamma: float) -> np.ndarray:
    """Weights (T,) of the squared error, Min-SNR-gamma (arXiv 2303.09556, section 3.4).

    The squared error of x_0 has the weight min(snr, gamma), with snr = alpha_bar / (1 - alpha_bar);
    that of the noise, which is snr times it, has min(snr, gamma) / snr.
    """
    snr = schedule.alphas_cumprod / (1.0 - schedule.alphas_cumprod)
    weights = np.minimum(snr, gamma)
    return weights / snr if prediction == "epsilon" else weights


def partners(batch: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each sample the next one in the batch, in a circle, that has another label.

    Args:
        labels: (B,) int32; None, and each sample differs from every other one.
    Returns:
        Its index (B,) int32, and 1 (B,) float32, or 0 where there is none.
    """
    if labels is None:
        return _following(batch, 1), _numbers(batch, float(batch > 1))
    index, found = _following(batch, 0), _numbers(batch, 0.0)
    for step in range(batch - 1, 0, -1):  # the nearest one is looked at last, and wins
        other = _following(batch, step)
        differs = kernels.gather_rows(labels, other) != labels
        index = kernels.where(differs, other, index)
        found = kernels.where(differs, _numbers(batch, 1.0), found)
    return index, found


@constexpr
def _following(batch: int, step: int) -> Tensor:
    """The indices of a batch, `step` further in a circle."""
    return Tensor((np.arange(batch) + step) % batch, ms.int32)


@constexpr
def _numbers(batch: int, value: float) -> Tensor:
    return Tensor(np.full(batch, value), ms.float32)


def check_loss_options(
    loss: Loss, min_snr_gamma: float, contrastive_weight: float, prefix: str = ""
) -> None:
    """Raise ValueError unless the options of the squared error are possible with this `loss`.

    `prefix` is prepended to their names in messages.
    """
    for name, value, most in (
        ("min_snr_gamma", min_snr_gamma, math.inf),
        ("contrastive_weight", contrastive_weight, 1.0),
    ):
        if not 0 <= value < most:
            raise ValueError(f"`{prefix}{name}` must be at least 0 and below {most}, got {value}.")
        if value and loss not in ("mse", "rescaled_mse"):
            raise ValueError(
                f"`{prefix}{name}` (={value}) must be 0 for `{prefix}loss` {loss}, which has no "
                "squared error."
            )


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
        min_snr_gamma: above 0 weights the squared error by `min_snr_weights`; the bound is as it
            was. 0 turns it off.
        contrastive_weight: lambda of contrastive flow matching (arXiv 2506.05350), 0.05 there: the
            squared distance from the target of another sample of the batch, times lambda, is
            subtracted from the squared error; see `partners`. 0 turns it off.

    Raises ValueError for an unknown name, a negative number, or a weight without a squared error.
    """

    def __init__(
        self,
        denoiser: nn.Cell,
        schedule: Schedule,
        *,
        loss: Loss = "mse",
        prediction: Prediction = "epsilon",
        variance: Variance = "learned_range",
        min_snr_gamma: float = 0.0,
        contrastive_weight: float = 0.0,
    ) -> None:
        super().__init__(auto_prefix=False)
        one_of(*LOSSES)("loss", loss)
        check_loss_options(loss, min_snr_gamma, contrastive_weight)
        self.denoiser = denoiser
        self.process = DiffusionProcess(schedule, prediction=prediction, variance=variance)
        self.uses_squared_error = loss in ("mse", "rescaled_mse")
        scales = {"rescaled_mse": schedule.num_steps / 1000, "rescaled_kl": schedule.num_steps}
        self.bound_scale = float(scales.get(loss, 1))
        self.contrastive_weight = contrastive_weight
        self.snr_weights = None
        if min_snr_gamma:
            coefficients = {"error": min_snr_weights(schedule, prediction, min_snr_gamma)}
            self.snr_weights = ScheduleTable(coefficients)

    @property
    def has_bound(self) -> bool:
        """Whether a part of the loss needs the variational bound."""
        return self.process.learns_variance or not self.uses_squared_error

    def construct(
        self, x0: Tensor, noise: Tensor, index: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, squared error and variational bound.

        Args:
            x0: clean samples (B, F, C, h, w).
            noise: standard normal, like x0.
            index: (B,) int32, steps of the schedule; one per video, shared by its frames.
            conditions: those that the denoiser takes; "y" are labels.
        Returns:
            Three (B,) float32. The first is the loss. The squared error is the plain one. The bound
            is in bits per dimension, for "rescaled_mse" already scaled; it is 0 where no part of
            the loss needs it.
        """
        x_t, t = self.noised(x0, noise, index)
        output = self.denoiser(x_t, t, **conditions)
        return self.terms(output, x0, noise, index, conditions.get("y"))

    def noised(self, x0: Tensor, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """x_t (B, F, C, h, w) at `index` (B,) and its timesteps (B,) in the training schedule."""
        coefficients = self.process.coefficients(index)
        return self.process.q_sample(x0, noise, coefficients), self.process.timesteps(coefficients)

    def terms(
        self, output: Tensor, x0: Tensor, noise: Tensor, index: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `construct` returns, for the denoiser's `output` (B, F, C or 2C, h, w)."""
        coefficients = self.process.coefficients(index)
        x_t = self.process.q_sample(x0, noise, coefficients)
        prediction, values = self.process.split_output(output, x0.shape[2])
        target = noise
        if self.process.prediction == "x0":
            target = x0
        error = kernels.mean(ops.square(target - prediction), _NON_BATCH_AXES)
        weighted = self._adjusted_error(error, target, prediction, index, labels)
        if not self.uses_squared_error:
            bound = self.bound(prediction, values, x0, x_t, index, coefficients)
            return self.bound_scale * bound, error, bound
        if not self.process.learns_variance:
            return weighted, error, error * 0.0
        # The bound trains the variance only: only the squared error shapes the mean.
        frozen = ops.stop_gradient(prediction)
        bound = self.bound_scale * self.bound(frozen, values, x0, x_t, index, coefficients)
        return weighted + bound, error, bound

    def _adjusted_error(
        self,
        error: Tensor,
        target: Tensor,
        prediction: Tensor,
        index: Tensor,
        labels: Tensor | None,
    ) -> Tensor:
        """The squared `error` (B,) with its contrast and weight: (B,)."""
        if self.contrastive_weight > 0:
            other, found = partners(error.shape[0], labels)
            negative = kernels.gather_rows(target, other)
            distance = kernels.mean(ops.square(negative - prediction), _NON_BATCH_AXES)
            error = error - self.contrastive_weight * found * distance
        if self.snr_weights is not None:
            error = error * self.snr_weights(index)["error"].reshape(-1)
        return error

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
        estimate, _ = self.process.to_x0_and_eps(prediction, x_t, coefficients)
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
