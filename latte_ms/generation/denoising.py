"""From noise to latents under a text: the compiled step, and the run of a scheduler over it.

Shapes: B videos, C latent channels, F frames, h w latents, L tokens of the text, W its width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms import runtime
from latte_ms.diffusion.samplers import on_device
from latte_ms.generation import schedulers
from latte_ms.generation.schedulers import Steps
from latte_ms.layers import kernels
from latte_ms.transformer.configuration import LatteT2VConfig
from latte_ms.transformer.latte_t2v import LatteT2V


class TextContext(nn.Cell):
    """Text (B, L, W) to the keys and values of every layer, once for all steps and frames."""

    def __init__(self, transformer: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.transformer.text_context(text)


class NoisePrediction(nn.Cell):
    """The network on a batch of one timestep, with guidance.

    eps = eps_null + scale * (eps_text - eps_null) (Classifier-Free Diffusion Guidance, equation 6),
    in one batch [null, text] with the same latents in both halves.

    Args:
        guided: the context has two rows per video, all null ones first.
        variance: keep what the network predicts behind the noise, guided like it.
        temporal: run the temporal blocks.
    """

    def __init__(self, transformer: LatteT2V, guided: bool, variance: bool, temporal: bool) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer
        self.guided, self.temporal = guided, temporal
        self.channels = transformer.config.channels_out if variance else 0
        if not variance:
            self.channels = transformer.config.in_channels
        self.cut = self.channels < transformer.config.channels_out

    def construct(
        self,
        latents: Tensor,
        timestep: Tensor,
        scale: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Noise (B, C, F, h, w), or with the variance (B, 2C, F, h, w).

        Args:
            latents: (B, C, F, h, w).
            timestep: (1,) float32.
            scale: () float32, of the guidance; a tensor, so that another value is no new graph.
            keys: (layers, B or 2B, L, D), and values alike.
            mask: (B or 2B, L) int32, 1 on the tokens to attend to.
        """
        batch = latents.shape[0]
        x = kernels.concat((latents, latents), 0) if self.guided else latents
        t = timestep.broadcast_to((x.shape[0],))
        x = x.transpose(0, 2, 1, 3, 4)
        output = self.transformer.denoise(x, t, keys, values, mask, self.temporal)
        output = output.transpose(0, 2, 1, 3, 4)
        if self.cut:
            output = kernels.split_first(output, self.channels, 1)[0]
        if self.guided:
            null, conditional = kernels.split(output, batch, 0)
            output = null + scale * (conditional - null)
        return output


@dataclass(frozen=True)
class Text:
    """What the network attends to.

    Attributes:
        embeddings: (B, L, W), or under guidance (2B, L, W) with the null ones first.
        mask: (B or 2B, L) int32, 1 on the rows to attend to.
    """

    embeddings: Tensor
    mask: Tensor


class Denoiser:
    """The graphs of one transformer, each compiled once per shape."""

    def __init__(self, transformer: LatteT2V) -> None:
        self.transformer = transformer
        self._context = _compiled(TextContext(transformer))
        self._graphs: dict[tuple[bool, bool, bool], Any] = {}

    def context(self, text: Text) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and mask of `text`."""
        keys, values = self._context(text.embeddings)
        return keys, values, on_device(text.mask)

    def graph(self, guided: bool, variance: bool, temporal: bool) -> Any:
        """The `NoisePrediction` of this kind."""
        kind = (guided, variance, temporal)
        if kind not in self._graphs:
            self._graphs[kind] = _compiled(NoisePrediction(self.transformer, *kind))
        return self._graphs[kind]


def _compiled(cell: nn.Cell) -> Any:
    """The cell as one graph, also for a user who left MindSpore in PyNative mode."""
    return cell if runtime.compiles_cells() else ms.jit(cell)


def wants_variance(config: LatteT2VConfig, scheduler: Any) -> bool:
    """Whether the predicted variance goes to the scheduler: by its class, and by our channels.

    Raises ValueError when the scheduler wants a variance that the transformer does not predict.
    """
    if not schedulers.uses_variance(scheduler):
        return False
    if config.channels_out != 2 * config.in_channels:
        raise ValueError(
            f"`scheduler` has the `variance_type` {scheduler.config.variance_type!r}, which needs "
            f"a transformer with `out_channels` of {2 * config.in_channels}, "
            f"got {config.channels_out}."
        )
    return True


class Run:
    """One run of a scheduler from noisy latents to clean ones.

    Nothing here waits for the device; of the schedulers Euler, LCM and TCD compare one number of
    the device in each step.

    Args:
        latents: (B, C, F, h, w) float32, as noisy as the first step expects.
        options: of the scheduler's `step`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scheduler: Any,
        steps: Steps,
        latents: Tensor,
        text: Text,
        options: Mapping[str, Any],
        temporal: bool,
    ) -> None:
        self.denoiser, self.scheduler, self.steps = denoiser, scheduler, steps
        self.latents = latents
        self._options, self._temporal = options, temporal
        self._variance = wants_variance(denoiser.transformer.config, scheduler)
        self._times = [Tensor(np.array([t], np.float32)) for t in steps.timesteps]
        self._scale: tuple[float, Tensor] | None = None
        self.text = text

    @property
    def text(self) -> Text:
        """The conditions; may be replaced between steps."""
        return self._text

    @text.setter
    def text(self, text: Text) -> None:
        self._text = text
        self._context = self.denoiser.context(text)

    @property
    def guided(self) -> bool:
        """Whether the text has null rows: two rows per video."""
        return self._text.mask.shape[0] == 2 * self.latents.shape[0]

    def step(self, index: int, guidance_scale: float) -> None:
        """Bring the latents from the timestep of `index` to the next one."""
        timestep = self.steps.timesteps[index]
        graph = self.denoiser.graph(self.guided, self._variance, self._temporal)
        x = self.scheduler.scale_model_input(self.latents, timestep)
        scale = self._scale_tensor(guidance_scale)
        noise = graph(x, self._times[index], scale, *self._context)
        self.latents = self.scheduler.step(
            noise, timestep, self.latents, return_dict=False, **self._options
        )[0]

    def _scale_tensor(self, value: float) -> Tensor:
        if self._scale is None or self._scale[0] != value:
            self._scale = (value, on_device(np.array(value, np.float32)))
        return self._scale[1]
