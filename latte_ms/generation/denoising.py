"""One run of a scheduler over the text-to-video network.

Shapes: B videos, F frames, C latent channels, h w latent size, L tokens of the prompt, E channels
of the text encoder, D hidden size. Latents are (B, F, C, h, w).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms import runtime, schedulers
from latte_ms.diffusion.guidance import Guidance
from latte_ms.diffusion.noise import FramesFirst
from latte_ms.diffusion.samplers import on_device
from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell
from latte_ms.schedulers import StepPlan
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig


class TextContext(EntryCell):
    """Prompt embeddings (B, L, E) to keys and values of every layer, for all steps and frames."""

    def __init__(self, transformer: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return self.transformer.text_context(embeddings)


class TextDenoiser(EntryCell):
    """`LatteT2V` as a denoiser (x, t, **conditions).

    Args:
        keep_variance: keep the predicted variance, whose channels follow those of the noise.
        temporal: run the temporal blocks.
    """

    def __init__(self, transformer: LatteT2V, keep_variance: bool, temporal: bool) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer
        self.temporal = temporal
        config = transformer.config
        self.channels = config.resolved_out_channels if keep_variance else config.in_channels
        self.drops_variance = self.channels < config.resolved_out_channels

    def construct(self, x: Tensor, t: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Noise (B, F, C, h, w), or with the variance (B, F, 2C, h, w).

        Args:
            x: (B, F, C, h, w).
            t: (B,) or (1,) float32.
            keys, values: (layers, B, L, D).
            mask: (B, L) int32, 1 on the tokens to attend to.
        """
        t = t.broadcast_to((x.shape[0],))
        output = self.transformer.predict_from_context(x, t, keys, values, mask, self.temporal)
        if self.drops_variance:
            output = kernels.split_first(output, self.channels, 2)[0]
        return output


def compiled(network: nn.Cell, build: type[nn.Cell], *options: Any) -> Any:
    """The cell `build(network, *options)` as one graph, shared by all that use the network.

    It is one graph also for a user who left MindSpore in PyNative mode.
    """
    key = (build, *options)
    if key not in network.shared_objects:
        cell = build(network, *options)
        network.shared_objects[key] = cell if runtime.compiles_cells() else ms.jit(cell)
    return network.shared_objects[key]


class GuidedTextDenoiser(Guidance):
    """`TextDenoiser` under guidance of noise and variance alike, as in diffusers' pipeline."""

    def __init__(self, transformer: LatteT2V, keep_variance: bool, temporal: bool) -> None:
        denoiser = TextDenoiser(transformer, keep_variance, temporal)
        super().__init__(denoiser, transformer.config.in_channels, denoiser.channels)


def denoiser_of(transformer: LatteT2V, guided: bool, keep_variance: bool, temporal: bool) -> Any:
    """The compiled denoiser of this kind; one graph for all prompts, seeds and guidance scales."""
    build = GuidedTextDenoiser if guided else TextDenoiser
    return compiled(transformer, build, keep_variance, temporal)


def passes_variance(config: LatteT2VConfig, scheduler: Any) -> bool:
    """Whether the scheduler is given the predicted variance: only DDPM with a learned one is.

    Raises ValueError when the scheduler wants a variance that the transformer does not predict.
    """
    if not schedulers.uses_variance(scheduler):
        return False
    if config.resolved_out_channels != 2 * config.in_channels:
        raise ValueError(
            f"`scheduler` has the `variance_type` {scheduler.config.variance_type!r}, which needs "
            f"a transformer with `out_channels` of {2 * config.in_channels}, "
            f"got {config.resolved_out_channels}."
        )
    return True


@dataclass(frozen=True)
class PromptBatch:
    """Prompt embeddings and mask of a batch.

    Attributes:
        embeddings: (B, L, E), or under guidance (2B, L, E) with the negative prompts first.
        mask: (B or 2B, L) int32, 1 on the rows to attend to.
    """

    embeddings: Tensor
    mask: Tensor


class SchedulerRun:
    """One run of a scheduler from noisy latents to clean ones, for `diffusion.denoise`.

    Steps do not wait for the device, except that Euler, LCM and TCD read one number from it.

    Args:
        scheduler: set to `steps`, and used by this run alone.
        x: (B, F, C, h, w) float32, as noisy as the first step expects.
        guidance: inputs of `Guidance`, made by `guidance_inputs`.
        rngs: of the noise that steps may add, one per video.
        eta: as in DDIM and TCD.
    """

    def __init__(
        self,
        transformer: LatteT2V,
        scheduler: Any,
        steps: StepPlan,
        x: Tensor,
        prompts: PromptBatch,
        guidance: Mapping[str, np.ndarray],
        rngs: Sequence[np.random.Generator],
        eta: float,
        temporal: bool,
    ) -> None:
        self.transformer, self.scheduler, self.steps = transformer, scheduler, steps
        self.timesteps = steps.timesteps
        self.x = x
        self.set_prompts(prompts)
        self.set_guidance(guidance)
        self._temporal = temporal
        self._keep_variance = passes_variance(transformer.config, scheduler)
        if not self._keep_variance:
            rngs = [FramesFirst(rng.bit_generator) for rng in rngs]
        self._options = schedulers.step_options(scheduler, eta, list(rngs))

    def set_prompts(self, prompts: PromptBatch) -> None:
        """Compute keys and values of `prompts`, at the start or between two steps."""
        self.prompts = prompts
        keys, values = compiled(self.transformer, TextContext)(prompts.embeddings)
        self._context = {"keys": keys, "values": values, "mask": on_device(prompts.mask)}

    def set_guidance(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Guide the following steps by `inputs`."""
        self.guidance = inputs
        self._guidance_inputs = {name: on_device(value) for name, value in inputs.items()}

    @property
    def guided(self) -> bool:
        """Whether there are two rows per video, a negative prompt and a prompt."""
        return self.prompts.mask.shape[0] == 2 * self.x.shape[0]

    def advance(self, index: int) -> None:
        """Bring the latents from timestep number `index` to the next one."""
        timestep = self.timesteps[index]
        denoiser = denoiser_of(self.transformer, self.guided, self._keep_variance, self._temporal)
        conditions = self._context | (self._guidance_inputs if self.guided else {})
        x = self.scheduler.scale_model_input(self.x, timestep)
        output = denoiser(x, Tensor(np.array([timestep], np.float32)), **conditions)
        x = self.x
        if self._keep_variance:  # the scheduler splits the channels off axis 1
            output, x = swap_layout(output), swap_layout(x)
        x = self.scheduler.step(output, timestep, x, return_dict=False, **self._options)[0]
        self.x = swap_layout(x) if self._keep_variance else x


def swap_layout(latents: Tensor) -> Tensor:
    """(B, F, C, h, w) to diffusers' (B, C, F, h, w), and back."""
    return kernels.transpose(latents, (0, 2, 1, 3, 4))
