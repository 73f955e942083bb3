"""Text to video and text to image: from a request to frames.

Shapes: P prompts, n videos per prompt, B = P * n videos, C latent channels, F frames, h w latent
size, L tokens, E channels of the text encoder. Latents are (B, F, C, h, w) inside and
(B, C, F, h, w) for the user.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Tensor

from latte_ms import runtime, schedulers
from latte_ms.diffusion.guidance import guidance_inputs
from latte_ms.diffusion.noise import generators, standard_normal
from latte_ms.diffusion.samplers import denoise
from latte_ms.generation.denoising import PromptBatch, SchedulerRun, passes_variance, swap_layout
from latte_ms.generation.pipelines.absent import DiffusersOnly
from latte_ms.generation.pipelines.callbacks import CallState, run_callback
from latte_ms.generation.pipelines.components import PipelineComponents
from latte_ms.generation.pipelines.lora import LoraMethods
from latte_ms.generation.pipelines.request import (
    Array,
    LattePipelineOutput,
    RequestLimits,
    TextRequest,
    callback_inputs,
    check_alike,
    check_prompt_or_embeddings,
    require_shape,
    to_float32,
    to_output,
)
from latte_ms.messages import shown
from latte_ms.options import called_with
from latte_ms.progress import progress
from latte_ms.schedulers import StepPlan
from latte_ms.text.encoder import PromptEmbeddings, encode_negatives, encode_prompts

logger = logging.getLogger(__name__)
Request = TypeVar("Request", bound=TextRequest)
Output = LattePipelineOutput | tuple[Any]


class PromptPipeline(LoraMethods, DiffusersOnly, PipelineComponents):
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
        """Embeddings (B, L, E) of prompts and of negative prompts, as diffusers returns them.

        With `mask_feature`, a single video's embeddings are truncated after the prompt's last
        token; with several, the prompts' rows after it are zero and negative prompts keep theirs.
        `prompt_arguments` also returns the mask of the tokens.

        Args:
            prompt_embeds: (P, L, E) instead of `prompt`, to be repeated for each video.
            negative_prompt_embeds: of the same shape, instead of `negative_prompt`.
            dtype: of the result; None is float32.
        Raises:
            ValueError: both or none of `prompt` and `prompt_embeds` are given, or shapes differ.
        """
        check_prompt_or_embeddings(prompt, prompt_embeds, negative_prompt_embeds)
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
            encoded = self._embeddings(request).as_diffusers(
                num_images_per_prompt, align_masks=True
            )
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
        """Encode prompts into arguments: `pipeline(**arguments)` gives what the prompts would.

        So all prompts can be encoded, and the text encoder freed, before anything else is loaded.
        The arrays have one row per prompt and may be sliced.
        """
        request = TextRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=2.0 if guided else 1.0,
            clean_caption=clean_caption,
        )
        with runtime.device_lock:
            encoded = self._embeddings(request)
        return _as_arguments(encoded, mask_feature)

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the next step."""
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
        """Number of denoising timesteps of the latest call."""
        return self._call.num_timesteps

    @property
    def current_timestep(self) -> int | float | None:
        """The timestep being denoised; None between calls."""
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
            limits, steps = self._check(request, scheduler)
            rngs = generators(request.generator, request.num_videos)
            run = SchedulerRun(
                transformer=self.transformer,
                scheduler=scheduler,
                steps=steps,
                prompts=self._prompts(request),
                x=self.initial_latents(request, limits, scheduler, steps, rngs),
                guidance=guidance_inputs(request),
                rngs=rngs,
                eta=request.eta,
                temporal=request.enable_temporal_attentions,
            )
            runtime.warn_if_slow(self.transformer.dtype)
            self._denoise(run, request)
            frames = self._frames(run.x, request)
        return LattePipelineOutput(frames) if request.return_dict else (frames,)

    def generate_each(
        self, requests: Mapping[str, Request], save: Callable[[str, Output], None]
    ) -> Iterator[tuple[str, Exception | None]]:
        """Generate and save each request; yields its name and what went wrong with it, if anything.

        All prompts are encoded first, and the text encoder is freed before the first is sampled
        (for good, unless the pipeline was loaded with `low_memory`). A request that fails is logged
        and does not end the others.

        Args:
            requests: by name, of one prompt each, encoded with the same options.
            save: called with a name and the result.
        Raises:
            ValueError: a request has several prompts, or other options of encoding than the first.
        """
        check_alike(requests)
        encoded = self._encode_each(requests)
        self.free_text_encoder()
        for name, request in encoded.items():
            if isinstance(request, Exception):
                yield name, request
            else:
                yield name, self._attempt(name, request, save)

    def _attempt(
        self, name: str, request: Request, save: Callable[[str, Output], None]
    ) -> Exception | None:
        try:
            save(name, self.generate(request))
        except Exception as error:  # the other requests go on
            logger.error("The prompt %s failed.", shown(name), exc_info=error)
            return error
        return None

    def check(self, request: TextRequest) -> None:
        """Raise what `generate` would raise before any work; loads no network."""
        self._check(request, schedulers.copy_of(self.scheduler))

    def _check(self, request: TextRequest, scheduler: Any) -> tuple[RequestLimits, StepPlan]:
        """Check the request and set the scheduler's timesteps; loads no network."""
        limits = self.limits()
        request.check(limits)
        steps = self.set_steps(request, scheduler)
        passes_variance(self.config_of("transformer"), scheduler)
        return limits, steps

    def set_steps(self, request: TextRequest, scheduler: Any) -> StepPlan:
        """The steps of a request, which `scheduler` is set to."""
        return schedulers.set_steps(
            scheduler,
            request.num_inference_steps,
            request.timesteps,
            like_diffusers=request.like_diffusers,
        )

    def initial_latents(
        self,
        request: TextRequest,
        limits: RequestLimits,
        scheduler: Any,
        steps: StepPlan,
        rngs: list[np.random.Generator],
    ) -> Tensor:
        """Noise (B, F, C, h, w) of the standard deviation that the scheduler starts from."""
        return self.initial_noise(request, limits, rngs) * float(scheduler.init_noise_sigma)

    def initial_noise(
        self, request: TextRequest, limits: RequestLimits, rngs: list[np.random.Generator]
    ) -> Tensor:
        """The user's noise, or each video's from its own source: (B, F, C, h, w)."""
        drawn = request.latents
        if drawn is None:
            drawn = standard_normal(rngs, request.latent_shape(limits)[1:])
        return swap_layout(Tensor(to_float32(drawn)))

    def _encode_each(self, requests: Mapping[str, Request]) -> dict[str, Request | Exception]:
        """Each request with its prompt replaced by embeddings, or the error its prompt caused.

        Prompts are encoded in one call, since a streamed encoder reads its weights anew for each;
        if that fails, one by one.
        """
        if not requests:
            return {}
        first = next(iter(requests.values()))
        prompts = [request.prompts[0] for request in requests.values()]
        together = dataclasses.replace(first, prompt=prompts, mask_feature=True)
        try:
            with runtime.device_lock:
                encoded = self._embeddings(together)
        except Exception as error:  # of one prompt; which one is found below
            if len(requests) == 1:
                (name,) = requests
                logger.error("The prompt %s failed.", shown(name), exc_info=error)
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
            embeddings = embeddings.as_diffusers(count, align_masks=False)
        else:
            embeddings = embeddings.repeated(count).with_padding_zeroed()
        rows, mask = embeddings.padded_batch()
        return PromptBatch(Tensor(rows), Tensor(mask))

    def _embeddings(self, request: TextRequest) -> PromptEmbeddings:
        """The embeddings of a request, masked where attention is not to see the padding."""
        if request.prompt_embeds is None:
            encoded = encode_prompts(
                self.prompt_encoder(), request.prompts, request.negatives, request.clean_caption
            )
            return encoded if request.mask_feature else encoded.attending_to_padding()
        prompt, negative = to_float32(request.prompt_embeds), None
        if request.negatives is not None:
            negative = encode_negatives(
                self.prompt_encoder(), request.negatives, prompt.shape[1], request.clean_caption
            )
        elif request.guided and request.negative_prompt_embeds is not None:
            require_shape("negative_prompt_embeds", request.negative_prompt_embeds, prompt.shape)
            negative = to_float32(request.negative_prompt_embeds)
        mask = np.ones(prompt.shape[:2], np.int32)
        if request.mask_feature and request.prompt_attention_mask is not None:
            mask = to_float32(request.prompt_attention_mask).astype(np.int32)
        return PromptEmbeddings(prompt, negative, mask)

    def _denoise(self, run: SchedulerRun, request: TextRequest) -> None:
        """All steps, with the progress bar and the callback."""
        outer = self._call
        state = self._call = CallState(request.guidance_scale, num_timesteps=len(run.timesteps))
        callback, order = request.callback_on_step_end, run.steps.order
        names = callback_inputs(callback, request.callback_on_step_end_tensor_inputs)
        state.timestep = run.timesteps[0]
        try:
            with progress(total=run.steps.num_user_steps, **self._progress) as bar:
                for step in denoise(run):
                    next_index = step.index + 1
                    if callback is not None:
                        run_callback(self, callback, names, run, step.index)
                        self._apply_guidance_scale(run)
                    if next_index == len(run.timesteps) or next_index % order == 0:
                        bar.update()
                    if state.interrupt or next_index == len(run.timesteps):
                        break
                    state.timestep = run.timesteps[next_index]
        finally:
            state.timestep = None
            if outer.timestep is not None:  # the call whose callback made this one still runs
                self._call = outer

    def _apply_guidance_scale(self, run: SchedulerRun) -> None:
        """Apply a guidance scale that the callback has changed."""
        scale = self._call.guidance_scale if self.do_classifier_free_guidance else 1.0
        value = np.array(scale, np.float32)
        if value != run.guidance["guidance_scale"]:
            run.set_guidance({**run.guidance, "guidance_scale": value})

    def _frames(self, x: Tensor, request: TextRequest) -> Any:
        if request.output_type == "latent":
            return swap_layout(x)
        chunk = request.decode_chunk_size or x.shape[1]
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
        self.check(request)


def _as_arguments(encoded: PromptEmbeddings, mask_feature: bool) -> dict[str, Any]:
    """The arguments of a call that stand for encoded prompts."""
    return {
        "prompt_embeds": encoded.prompt,
        "negative_prompt_embeds": encoded.negative,
        "negative_prompt": None,
        "prompt_attention_mask": encoded.mask if mask_feature else None,
    }
