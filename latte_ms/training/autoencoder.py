"""The objective of training an autoencoder: reconstruction and a small KL term."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.messages import shown
from latte_ms.vae.autoencoder import AutoencoderKL

RECONSTRUCTIONS = ("absolute", "squared")


class AutoencoderObjective(nn.Cell):
    """Mean error of the decoded sample, plus `kl_weight` times the KL term, in float32.

    The KL term is the divergence of the latents' distribution from the standard normal, in nats,
    as a mean over all latent values: mean of (m^2 + exp(v) - 1 - v) / 2 for mean m and
    log-variance v.

    Args:
        reconstruction: "absolute" or "squared" error, mean over all values.
    Raises:
        ValueError: `reconstruction` is not one of these, or `kl_weight` is negative.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        kl_weight: float = 1e-4,
        reconstruction: str = "absolute",
    ) -> None:
        super().__init__(auto_prefix=False)
        if reconstruction not in RECONSTRUCTIONS:
            raise ValueError(
                f"`reconstruction` must be one of {RECONSTRUCTIONS}, got {shown(reconstruction)}."
            )
        if kl_weight < 0:
            raise ValueError(f"`kl_weight` must not be negative, got {kl_weight}.")
        self.autoencoder = autoencoder
        self.kl_weight = kl_weight
        self.reconstruction = reconstruction

    def construct(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (N, C, H, W) in [-1, 1], noise (N, Z, h, w) -> loss, reconstruction, KL."""
        pixels = pixels.astype(ms.float32)
        decoded, mean, log_variance = self.autoencoder(pixels, noise.astype(ms.float32))
        error = decoded - pixels
        if self.reconstruction == "absolute":
            reconstruction = mean_of(ops.abs(error))
        else:
            reconstruction = mean_of(error * error)
        kl = 0.5 * mean_of(mean * mean + kernels.exp(log_variance) - 1.0 - log_variance)
        return reconstruction + self.kl_weight * kl, reconstruction, kl


def mean_of(x: Tensor) -> Tensor:
    """Mean over all elements: scalar."""
    return kernels.mean(x, tuple(range(x.ndim)))
