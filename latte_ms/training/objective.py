"""The training objective of a denoiser."""

from mindspore import Tensor, nn

from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.layers import kernels


class DenoisingObjective(nn.Cell):
    """Mean diffusion loss of a batch; `diffusion.loss.DiffusionLoss` explains the terms."""

    terms = ("loss", "mse", "vb")

    def __init__(self, loss: DiffusionLoss) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss

    def construct(
        self, x0: Tensor, noise: Tensor, t: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scalars (loss, mse, vb) for latents x0 (B, F, C, h, w), noise like x0, and t (B,)."""
        loss, mse, vb = self.loss(x0, noise, t, **conditions)
        return kernels.mean(loss, (0,)), kernels.mean(mse, (0,)), kernels.mean(vb, (0,))
