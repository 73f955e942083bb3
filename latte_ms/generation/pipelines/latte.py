"""Text to video and text to image: from a request to frames.

Shapes: P prompts, n videos per prompt, B = P * n videos, C latent channels, F frames, h w latents,
L tokens, W channels of the text encoder. Latents are (B, F, C, h, w) inside and (B, C, F, h, w) for
the user.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from latte_ms import runtime, schedulers
from latte_ms.diffusion.guidance import guidance_conditions
from latte_ms.diffusion.noise import generators, standard_normal
from latte_ms.diffusion.samplers import denoise
from latte_ms.generation.denoising import PromptBatch, SchedulerRun, swap_layout, wants_variance
from latte_ms.generation.pipelines.callbacks import call_back
from latte_ms.generation.pipelines.components import PipelineComponents
from latte_ms.generation.pipelines.request import (
    Array,
    LattePipelineOutput,
    Limits,
    TextRequest,
    as_prompts,
    callback_inputs,
    check_one_prompt,
    require_shape,
    to_array,
    to_output,
)
from latte_ms.options import called_with
from latte_ms.schedulers import Steps
from latte_ms.text.encoder import PromptEmbeddings, encode, encode_negatives

logger = logging.getLogger(__name__)
Request = TypeVar("Request", bound=TextRequest)
Output = LattePipelineOutput | tuple[Any]


@dataclass
class CallState:
    """What a callback may read and change while its call runs."""

    guidance_scale: float = 1.0
    interrupt: bool = False  # skip the remaining steps
    timestep: int | float | None = None  # of the running step
    num_timesteps: int = 0


class PromptPipeline(PipelineComponents):
    """Encodes prompts, runs the scheduler over the transformer, decodes.

    A pipeline adds a `__call__` with the options of its request. Calls from several threads run one
    after the other.
    """

    def __init__(
        self, tokenizer: Any, text_encoder: Any, vae: Any, transformer: Any, scheduler: Any
    ) -> None:
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)
        self._call = CallState()
        self._progress: dict[str, Any] = {}

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] = "",
        num_images_per_prompt: int = 1,
        prompt_embeds: Array | None = None,
        negative_prompt_embeds: Array | None = None,
        clean_caption: bool = False,
        mask_feature: bool = True,
        dtype: ms.Type | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, L, W) of prompts and of negative prompts, as diffusers returns them.

        One video's are cut after the prompt's last token; those of several are zero behind it. For
        several prompts `prompt_arguments` also returns the mask that tells padding from tokens.

        Args:
            prompt_embeds: (P, L, W) instead of `prompt`, to be repeated for each video.
            negative_prompt_embeds: of the same shape, instead of `negative_prompt`.
            dtype: of the result; None is float32.
        Raises:
            ValueError: both or none of `prompt` and `prompt_embeds` are given, or shapes differ.
        """
        check_one_prompt(prompt, prompt_embeds, negative_prompt_embeds)
        request = TextRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=2.0 if do_classifier_free_guidance else 1.0,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            clean_caption=clean_caption,
            mask_feature=mask_feature,
        )
        with runtime.device_lock:
            encoded = self._embeddings(request).as_diffusers(num_images_per_prompt, ordered=True)
            prompts, negative = (
                None if rows is None else Tensor(rows).astype(dtype or ms.float32)
                for rows in (encoded.prompt, encoded.negative)
            )
        assert prompts is not None
        return prompts, negative

    def prompt_arguments(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] = "",
        guided: bool = True,
        clean_caption: bool = True,
        mask_feature: bool = True,
    ) -> dict[str, Any]:
        """Prompts encoded to the arguments of a call that gives what the prompts would.

        So all prompts of a run can be encoded, and the text encoder freed, before anything else is
        loaded: `pipeline(**arguments)`. The arrays have one row per prompt and may be sliced.
        """
        prompts = as_prompts("prompt", prompt)
        negatives = as_prompts("negative_prompt", negative_prompt, len(prompts)) if guided else None
        with runtime.device_lock:
            encoded = encode(self.encoder(), prompts, negatives, clean_caption)
        return _as_arguments(encoded, mask_feature)

    @property
    def guidance_scale(self) -> float:
        """Of the next step."""
        return self._call.guidance_scale

    @property
    def _guidance_scale(self) -> float:  # diffusers' callbacks assign to it
        return self._call.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: float) -> None:
        self._call.guidance_scale = value

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step is guided, as it is for a scale above 1."""
        return self._call.guidance_scale > 1.0

    @property
    def num_timesteps(self) -> int:
        """Network evaluations of the latest call."""
        return self._call.num_timesteps

    @property
    def current_timestep(self) -> int | float | None:
        """Of the running step; None between calls."""
        return self._call.timestep

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are to be skipped."""
        return self._call.interrupt

    @property
    def _interrupt(self) -> bool:  # diffusers' callbacks assign to it
        return self._call.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._call.interrupt = value

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm for the bar over the steps, such as `disable=True`."""
        self._progress = options

    def generate(self, request: TextRequest) -> Output:
        """The videos of one request; the call of a pipeline makes its request and ends here."""
        with runtime.device_lock:
            scheduler = schedulers.copy_of(self.scheduler)
            limits, steps = self.prepare(request, scheduler)
            sources = generators(request.generator, request.num_videos)
            run = SchedulerRun(
                transformer=self.transformer,
                scheduler=scheduler,
                steps=steps,
                prompts=self._prompts(request),
                x=self.start(request, limits, scheduler, steps, sources),
                guidance=guidance_conditions(request),
                sources=sources,
                eta=request.eta,
                temporal=request.enable_temporal_attentions,
            )
            self._denoise(run, request)
            frames = self._frames(run.x, request)
        return LattePipelineOutput(frames) if request.return_dict else (frames,)

    def generate_each(
        self, requests: Mapping[str, Request]
    ) -> Iterator[tuple[str, Output | Exception]]:
        """The results of requests of one prompt each, or what went wrong, under their names.

        All prompts are encoded first, and the text encoder is freed before the first is sampled. A
        request that fails is logged and does not end the others.
        """
        encoded = self._encode_each(requests)
        self.free_text_encoder()
        for name, request in encoded.items():
            if isinstance(request, Exception):
                yield name, request
                continue
            try:
                yield name, self.generate(request)
            except Exception as error:  # whatever it is, the other results are wanted
                logger.error("The prompt %r failed.", name, exc_info=error)
                yield name, error

    def prepare(self, request: TextRequest, scheduler: Any) -> tuple[Limits, Steps]:
        """Raise what can be wrong with a request; loads no network, changes only `scheduler`."""
        limits = self.limits()
        request.check(limits)
        steps = self.set_steps(request, scheduler)
        wants_variance(self.configuration("transformer"), scheduler)
        return limits, steps

    def set_steps(self, request: TextRequest, scheduler: Any) -> Steps:
        """The steps of a request, which `scheduler` is set to."""
        return schedulers.set_steps(scheduler, request.num_inference_steps, request.timesteps)

    def start(
        self,
        request: TextRequest,
        limits: Limits,
        scheduler: Any,
        steps: Steps,
        sources: list[np.random.Generator],
    ) -> Tensor:
        """Noise (B, F, C, h, w) of the standard deviation that the scheduler starts from."""
        return self.noise(request, limits, sources) * float(scheduler.init_noise_sigma)

    def noise(
        self, request: TextRequest, limits: Limits, sources: list[np.random.Generator]
    ) -> Tensor:
        """The user's noise, or each video's from its own source: (B, F, C, h, w)."""
        drawn = request.latents
        if drawn is None:
            drawn = standard_normal(sources, request.latent_shape(limits)[1:])
        return swap_layout(Tensor(to_array(drawn)))

    def _encode_each(self, requests: Mapping[str, Request]) -> dict[str, Request | Exception]:
        """The requests with embeddings for prompts, or the error that a prompt makes.

        In one call, since the text encoder may be read from disk for each; one by one if it fails.
        """
        if not requests:
            return {}
        first = next(iter(requests.values()))
        prompts = [prompt for request in requests.values() for prompt in request.prompts]
        try:
            negative = first.negative_prompt if first.guided else None
            negatives = None if negative is None else as_prompts("", negative, len(prompts))
            with runtime.device_lock:
                encoded = encode(self.encoder(), prompts, negatives, first.clean_caption)
        except Exception as error:  # of one prompt; which one is found below
            if len(requests) == 1:
                (name,) = requests
                logger.error("The prompt %r failed.", name, exc_info=error)
                return {name: error}
            alone = [self._encode_each({name: request}) for name, request in requests.items()]
            return {name: result for part in alone for name, result in part.items()}
        return {
            name: dataclasses.replace(
                request, prompt=None, **_as_arguments(encoded.row(i), request.mask_feature)
            )
            for i, (name, request) in enumerate(requests.items())
        }

    def _prompts(self, request: TextRequest) -> PromptBatch:
        """The prompts of all B videos as tensors; the text encoder is freed under `low_memory`."""
        embeddings = self._embeddings(request)
        if self.can_reload("text_encoder"):
            self.free_text_encoder()
        count = request.num_images_per_prompt
        if request.like_diffusers:
            embeddings = embeddings.as_diffusers(count, ordered=False)
        else:
            embeddings = embeddings.repeated(count).masked()
        rows, mask = embeddings.batch()
        return PromptBatch(Tensor(rows), Tensor(mask))

    def _embeddings(self, request: TextRequest) -> PromptEmbeddings:
        """The embeddings of a request, masked where attention is not to see the padding."""
        if request.prompt_embeds is None:
            encoded = encode(
                self.encoder(), request.prompts, request.negatives, request.clean_caption
            )
            return encoded if request.mask_feature else encoded.unmasked()
        prompt, negative = to_array(request.prompt_embeds), None
        if request.negatives is not None:
            negative = encode_negatives(
                self.encoder(), request.negatives, prompt.shape[1], request.clean_caption
            )
        elif request.guided and request.negative_prompt_embeds is not None:
            require_shape("negative_prompt_embeds", request.negative_prompt_embeds, prompt.shape)
            negative = to_array(request.negative_prompt_embeds)
        mask = np.ones(prompt.shape[:2], np.int32)
        if request.mask_feature and request.prompt_attention_mask is not None:
            mask = to_array(request.prompt_attention_mask).astype(np.int32)
        return PromptEmbeddings(prompt, negative, mask)

    def _denoise(self, run: SchedulerRun, request: TextRequest) -> None:
        """All steps, with the progress bar and the callback."""
        state = self._call = CallState(request.guidance_scale, num_timesteps=len(run.timesteps))
        callback, order = request.callback_on_step_end, run.steps.order
        names = callback_inputs(callback, request.callback_on_step_end_tensor_inputs)
        state.timestep = run.timesteps[0]
        try:
            with tqdm(total=run.steps.progress, **self._progress) as bar:
                for step in denoise(run):
                    following = step.index + 1
                    if callback is not None:
                        call_back(self, callback, names, run, step.index)
                        self._follow(run)
                    if following == len(run.timesteps) or following % order == 0:
                        bar.update()
                    if state.interrupt or following == len(run.timesteps):
                        break
                    state.timestep = run.timesteps[following]
        finally:
            state.timestep = None

    def _follow(self, run: SchedulerRun) -> None:
        """Take over a guidance scale that the callback has changed."""
        scale = self._call.guidance_scale if self.do_classifier_free_guidance else 1.0
        value = np.array(scale, np.float32)
        if value != run.guidance["guidance_scale"]:
            run.guidance = {**run.guidance, "guidance_scale": value}

    def _frames(self, x: Tensor, request: TextRequest) -> Any:
        if request.output_type == "latent":
            return swap_layout(x)
        chunk = request.decode_chunk_size or request.video_length
        pixels = self.codec.decode(x.asnumpy(), chunk, mix_videos=request.like_diffusers)
        return to_output(pixels, request.output_type)


class LattePipeline(PromptPipeline):
    """Videos, or images, from prompts, with diffusers' arguments, names and defaults."""

    @called_with(TextRequest)
    def __call__(self, request: TextRequest) -> Output:
        """Sample B videos. A video depends on its prompt and generator, not on its batch.

        Raises ValueError where an argument breaks its rule, before any work.
        """
        return self.generate(request)

    @called_with(TextRequest)
    def check_inputs(self, request: TextRequest) -> None:
        """Raise what a call with these arguments would raise before any work."""
        self.prepare(request, schedulers.copy_of(self.scheduler))


def _as_arguments(encoded: PromptEmbeddings, mask_feature: bool) -> dict[str, Any]:
    """The arguments of a call that stand for encoded prompts."""
    return {
        "prompt_embeds": encoded.prompt,
        "negative_prompt_embeds": encoded.negative,
        "negative_prompt": None,
        "prompt_attention_mask": encoded.mask if mask_feature else None,
    }
