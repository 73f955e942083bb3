"""What text-to-video pipelines share: from checked arguments to frames.

Shapes: P prompts, n videos per prompt, B = P * n videos, C latent channels, F frames, h w latents,
H W pixels, L tokens, W width of the text.
"""

import abc
import copy
import inspect
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from latte_ms.generation import pipeline_text, schedulers
from latte_ms.generation.denoising import Run, Text, wants_variance
from latte_ms.generation.pipeline_callbacks import call_back
from latte_ms.generation.pipeline_components import PipelineComponents
from latte_ms.generation.pipeline_inputs import (
    Arguments,
    Array,
    Limits,
    check,
    check_one_prompt,
    check_texts,
    generators,
    input_names,
    require_shape,
    to_array,
)
from latte_ms.generation.pipeline_outputs import LattePipelineOutput, is_latent, to_output
from latte_ms.generation.pipeline_text import Embeddings
from latte_ms.generation.schedulers import Steps


class LatentGenerator(PipelineComponents, abc.ABC):
    """Encodes texts, runs the scheduler over the transformer, decodes.

    A pipeline is a `__call__` with the arguments of its users, which ends in `_generate`.
    """

    _guidance_scale = 1.0
    _num_timesteps = 0
    _current_timestep: int | float | None = None
    _interrupt = False
    _progress: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    @abc.abstractmethod
    def __call__(self, *arguments: Any, **named: Any) -> LattePipelineOutput | tuple[Any]:
        """Sample B videos."""

    def check_inputs(self, *arguments: Any, **named: Any) -> None:
        """Raise what a call with these arguments would raise before any work."""
        bound = inspect.signature(self.__call__).bind(*arguments, **named)
        bound.apply_defaults()
        # A run that is under way keeps the scheduler's steps.
        self._prepared(self._arguments(bound.arguments), copy.copy(self.scheduler))

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

        One video's are cut to the prompt's tokens; those of several are zero behind them. For
        several prompts `prompt_arguments` keeps what tells zero rows from tokens.

        Args:
            prompt_embeds: (P, L, W) instead of `prompt`, to be repeated for each video.
            negative_prompt_embeds: of the same shape, instead of `negative_prompt`.
            dtype: of the result; None is float32.
        Raises:
            ValueError: both or none of `prompt` and `prompt_embeds` are given, or shapes differ.
        """
        check_one_prompt(prompt, prompt_embeds, negative_prompt_embeds)
        if prompt_embeds is None:
            assert prompt is not None
            encoded = self._encoded(
                prompt, negative_prompt, do_classifier_free_guidance, clean_caption
            )
        else:
            count, negatives, negative = len(prompt_embeds), None, None
            if do_classifier_free_guidance and negative_prompt_embeds is None:
                negatives = check_texts("negative_prompt", negative_prompt, count)
            elif do_classifier_free_guidance:
                negative = negative_prompt_embeds
            encoded = self._from_rows(prompt_embeds, negative, negatives, None, clean_caption)
        if not mask_feature:
            encoded = encoded.unmasked()
        embeddings = encoded.as_diffusers(num_images_per_prompt, ordered=True)
        kind = dtype or ms.float32
        negative = None if embeddings.negative is None else Tensor(embeddings.negative).astype(kind)
        return Tensor(embeddings.prompt).astype(kind), negative

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
        read: `pipeline(**arguments)`. The arrays have one row per prompt and may be cut.
        """
        encoded = self._encoded(prompt, negative_prompt, guided, clean_caption)
        return {
            "prompt_embeds": encoded.prompt,
            "negative_prompt_embeds": encoded.negative,
            "negative_prompt": None,
            "prompt_attention_mask": encoded.mask if mask_feature else None,
        }

    @property
    def guidance_scale(self) -> float:
        """Of the next step."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step is guided: a scale of 1 or below means that it is not."""
        return self._guidance_scale > 1.0

    @property
    def num_timesteps(self) -> int:
        """Network evaluations of the latest run."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> int | float | None:
        """Of the step that runs; None between calls."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the steps that are left are to be skipped."""
        return self._interrupt

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm for the bar over the steps, such as `disable=True`."""
        self._progress = options

    def _generate(self, given: Arguments) -> LattePipelineOutput | tuple[Any]:
        limits, steps = self._prepared(given, self.scheduler)
        self._guidance_scale, self._num_timesteps = given.guidance_scale, len(steps)
        self._interrupt = False
        sources = generators(given.generator, given.num_videos)
        text = self._text(given)
        latents = self._start(given, limits, steps, sources)
        options = schedulers.step_options(self.scheduler, given.eta, sources)
        temporal = given.enable_temporal_attentions
        run = Run(self.denoiser, self.scheduler, steps, latents, text, options, temporal)
        self._denoise(run, given)
        frames = self._frames(run.latents, given)
        return LattePipelineOutput(frames) if given.return_dict else (frames,)

    def _arguments(self, given: dict[str, Any]) -> Arguments:
        """The arguments of `__call__` in one object."""
        return Arguments(**given)

    def _prepared(self, given: Arguments, scheduler: Any) -> tuple[Limits, Steps]:
        """Everything that can be wrong is found here, and no network is read for it."""
        limits = self.limits()
        check(given, limits)
        steps = self._steps(given, scheduler)
        wants_variance(self._config("transformer"), scheduler)
        return limits, steps

    def _steps(self, given: Arguments, scheduler: Any) -> Steps:
        return schedulers.set_steps(scheduler, given.num_inference_steps, given.timesteps)

    def _start(
        self,
        given: Arguments,
        limits: Limits,
        steps: Steps,
        sources: list[np.random.Generator],
    ) -> Tensor:
        """Noise (B, C, F, h, w) of the deviation that the scheduler starts from."""
        return Tensor(self._noise(given, limits, sources) * float(self.scheduler.init_noise_sigma))

    def _noise(
        self, given: Arguments, limits: Limits, sources: list[np.random.Generator]
    ) -> np.ndarray:
        """The user's noise, or each video's from its own generator, float32."""
        if given.latents is not None:
            return to_array(given.latents)
        shape = given.latent_shape(limits)[1:]
        return np.stack([source.standard_normal(shape) for source in sources]).astype(np.float32)

    def _text(self, given: Arguments) -> Text:
        embeddings = self._embeddings(given)
        if self._text_source is not None:
            self.free_text_encoder()
        count = given.num_images_per_prompt
        if given.like_diffusers:
            return embeddings.as_diffusers(count, ordered=False).text()
        return embeddings.repeated(count).masked().text()

    def _embeddings(self, given: Arguments) -> Embeddings:
        """The texts of a call, with a mask that shows what is to be attended to."""
        if given.prompt_embeds is None:
            encoded = pipeline_text.encode(
                self._encoder(), given.prompts, given.negatives, given.clean_caption
            )
            return encoded if given.mask_feature else encoded.unmasked()
        return self._from_rows(
            given.prompt_embeds,
            given.negative_prompt_embeds if given.guided else None,
            given.negatives,
            given.prompt_attention_mask if given.mask_feature else None,
            given.clean_caption,
        )

    def _from_rows(
        self,
        prompt_embeds: Array,
        negative_prompt_embeds: Array | None,
        negatives: list[str] | None,
        mask: Array | None,
        clean_caption: bool,
    ) -> Embeddings:
        """Embeddings of the user's, beside `negatives` or embeddings of them, or neither."""
        prompt, negative = to_array(prompt_embeds), None
        if negatives is not None:
            negative = pipeline_text.negative_rows(
                self._encoder(), negatives, prompt.shape[1], clean_caption
            )
        elif negative_prompt_embeds is not None:
            require_shape("negative_prompt_embeds", negative_prompt_embeds, prompt.shape)
            negative = to_array(negative_prompt_embeds)
        rows = np.ones(prompt.shape[:2]) if mask is None else to_array(mask)
        return Embeddings(prompt, negative, rows.astype(np.int32))

    def _encoded(
        self,
        prompt: str | list[str],
        negative: str | list[str],
        guided: bool,
        clean_caption: bool,
    ) -> Embeddings:
        prompts = check_texts("prompt", prompt)
        negatives = check_texts("negative_prompt", negative, len(prompts)) if guided else None
        return pipeline_text.encode(self._encoder(), prompts, negatives, clean_caption)

    def _denoise(self, run: Run, given: Arguments) -> None:
        """All steps, with the bar and the callback."""
        callback, last = given.callback_on_step_end, len(run.steps) - 1
        names = input_names(callback, given.callback_on_step_end_tensor_inputs)
        try:
            with tqdm(total=run.steps.progress, **self._progress) as bar:
                for index, self._current_timestep in enumerate(run.steps.timesteps):
                    run.step(
                        index, self._guidance_scale if self.do_classifier_free_guidance else 1.0
                    )
                    if callback is not None:
                        call_back(self, callback, names, run, index)
                    if index == last or (index + 1) % run.steps.order == 0:
                        bar.update()
                    if self._interrupt:
                        break
        finally:
            self._current_timestep = None

    def _frames(self, latents: Tensor, given: Arguments) -> Any:
        if is_latent(given.output_type):
            return latents
        frames_first = latents.asnumpy().transpose(0, 2, 1, 3, 4)  # (B, F, C, h, w)
        pixels = self.codec.decode(
            frames_first,
            given.decode_chunk_size or given.video_length,
            mix_videos=given.like_diffusers,
        )
        return to_output(pixels, given.output_type)
