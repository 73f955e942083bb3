"""Classifier-free guidance around any denoiser."""

from mindspore import Tensor, nn

from latte_ms.layers import kernels


class ClassifierFreeGuidance(nn.Cell):
    """A denoiser that moves the noise away from the unconditional prediction.

    eps = eps_null + scale * (eps_cond - eps_null), one batch [conditional, null] per call with the
    same x in both halves (Classifier-Free Diffusion Guidance, equation 6). Channels behind the
    first `channels` (a learned variance) stay those of the conditional half, and the null half
    ends here.

    Args:
        denoiser: cell (x, t, *conditions) -> (B, F, C or 2C, H, W).
        channels: how many channels of the output hold the noise.
    """

    def __init__(self, denoiser: nn.Cell, channels: int = 4) -> None:
        super().__init__(auto_prefix=False)
        if channels < 1:
            raise ValueError(f"`channels` must be at least 1, got {channels}.")
        self.denoiser = denoiser
        self.channels = channels

    def construct(self, x: Tensor, t: Tensor, *conditions: Tensor | None) -> Tensor:
        """Guided output (B, F, C or 2C, H, W).

        Args:
            x: (B, F, C, H, W).
            t: (B,) timesteps.
            conditions: the conditions of the denoiser, the same for the null half, and the scale;
                for one condition that is `(y, null_y, scale)`, for two
                `(a, b, null_a, null_b, scale)`. The scale is a tensor () or (B, 1, 1, 1, 1), so
                that another value needs no new graph. A condition that the denoiser takes as None
                is None in both halves.
        Raises:
            ValueError: conditions and null conditions do not pair up.
        """
        count = len(conditions) // 2
        if len(conditions) != 2 * count + 1:
            raise ValueError(
                "`conditions` must be the conditions, as many null conditions and a scale, "
                f"got {len(conditions)} tensors."
            )
        scale = conditions[2 * count]
        both: tuple[Tensor | None, ...] = ()
        for i in range(count):
            joined = None
            if conditions[i] is not None:
                joined = kernels.concat((conditions[i], conditions[count + i]), 0)
            both = (*both, joined)
        output = self.denoiser(kernels.concat((x, x), 0), kernels.concat((t, t), 0), *both)
        guided, unguided = kernels.split(output, x.shape[0], 0)
        if output.shape[2] == self.channels:
            return unguided + scale * (guided - unguided)
        noise, rest = kernels.split_first(guided, self.channels, 2)
        null_noise, _ = kernels.split_first(unguided, self.channels, 2)
        return kernels.concat((null_noise + scale * (noise - null_noise), rest), 2)
