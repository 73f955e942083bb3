"""Classifier-free guidance around any denoiser."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell
from latte_ms.options import fraction, option

_MIN_STD = 1e-12


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """Options common to all guidance, besides its scale; each is off at 0."""

    guidance_rescale: float = option(
        0.0,
        "How far the standard deviation of the guided prediction is brought back to that of the "
        "conditional one: 0 leaves it, 1 makes them equal (arXiv 2305.08891, section 3.4).",
        fraction,
    )


def guidance_inputs(options: Any) -> dict[str, np.ndarray]:
    """The scale and the options of guidance as () float32, under the names of `Guidance.construct`.

    `options` has the fields of `GuidanceOptions` and a `guidance_scale`. An option that is off is
    left out, and the graph then skips its work.
    """
    values = {field.name: getattr(options, field.name) for field in fields(GuidanceOptions)}
    on = {name: value for name, value in values.items() if value != 0}
    on["guidance_scale"] = options.guidance_scale
    return {name: np.array(value, np.float32) for name, value in on.items()}


class Guidance(EntryCell):
    """A denoiser that moves its prediction away from the unconditional prediction.

    eps = eps_null + scale * (eps_cond - eps_null), both halves in one batch [null, conditional]
    with the same x (Classifier-Free Diffusion Guidance, equation 6 with scale = 1 + w).

    Args:
        denoiser: cell (x, t, **conditions) -> (B, F, channels, h, w).
        prediction_channels: channels of the output that hold the prediction (of the noise or x_0).
        guided_channels: the first channels of the output, which are guided; the others (a learned
            variance) stay those of the conditional half. None guides only the prediction.
    """

    def __init__(
        self, denoiser: nn.Cell, prediction_channels: int = 4, guided_channels: int | None = None
    ) -> None:
        super().__init__(auto_prefix=False)
        if prediction_channels < 1:
            raise ValueError(
                f"`prediction_channels` must be at least 1, got {prediction_channels}."
            )
        self.denoiser = denoiser
        self.prediction_channels = prediction_channels
        self.guided_channels = guided_channels or prediction_channels

    def construct(
        self,
        x: Tensor,
        t: Tensor,
        guidance_scale: Tensor,
        guidance_rescale: Tensor | None = None,
        **conditions: Tensor,
    ) -> Tensor:
        """Guided output (B, F, channels, h, w).

        Args:
            x: (B, F, C, h, w).
            t: (B,) timesteps, or (1,) for all videos.
            guidance_scale: () or (B, 1, 1, 1, 1); a tensor, so that another value needs no new
                graph.
            guidance_rescale: the same, or None without.
            conditions: those that the denoiser takes, 2B rows each, the unconditional ones first.
        """
        if t.shape[0] == x.shape[0]:
            t = kernels.concat((t, t), 0)
        output = self.denoiser(kernels.concat((x, x), 0), t, **conditions)
        null, conditional = kernels.split(output, x.shape[0], 0)
        rest = None
        if output.shape[2] > self.guided_channels:
            null, _ = kernels.split_first(null, self.guided_channels, 2)
            conditional, rest = kernels.split_first(conditional, self.guided_channels, 2)
        guided = null + guidance_scale * (conditional - null)
        if guidance_rescale is not None:
            guided = self._rescaled(guided, conditional, guidance_rescale)
        return guided if rest is None else kernels.concat((guided, rest), 2)

    def _rescaled(self, guided: Tensor, conditional: Tensor, phi: Tensor) -> Tensor:
        """The prediction times phi * std(conditional) / std(guided) + 1 - phi, per video."""
        prediction, reference, rest = guided, conditional, None
        if guided.shape[2] > self.prediction_channels:
            prediction, rest = kernels.split_first(guided, self.prediction_channels, 2)
            reference, _ = kernels.split_first(conditional, self.prediction_channels, 2)
        ratio = kernels.divide(_std(reference), kernels.clamp(_std(prediction), _MIN_STD, None))
        prediction = prediction * (phi * ratio + (1.0 - phi))
        return prediction if rest is None else kernels.concat((prediction, rest), 2)


def _std(x: Tensor) -> Tensor:
    """Standard deviation of each video: (B, 1, 1, 1, 1)."""
    axes = (1, 2, 3, 4)
    mean = kernels.mean(x, axes).reshape(-1, 1, 1, 1, 1)
    return ops.sqrt(kernels.mean(ops.square(x - mean), axes)).reshape(-1, 1, 1, 1, 1)
