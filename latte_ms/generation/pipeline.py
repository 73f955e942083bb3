"""Text to video and text to image with Latte: diffusers' `LattePipeline` on MindSpore.

Shapes: P prompts, n videos per prompt, B = P * n videos, C latent channels, F frames, h w latents,
L tokens, W width of the text.
"""

from collections.abc import Sequence
from typing import Any

from latte_ms.generation.pipeline_generator import LatentGenerator
from latte_ms.generation.pipeline_inputs import Array, Callback, Seed
from latte_ms.generation.pipeline_outputs import LattePipelineOutput


class LattePipeline(LatentGenerator):
    """Videos, or pictures, from texts. `__call__` has diffusers' arguments, names and defaults."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = "",
        num_inference_steps: int = 50,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        video_length: int = 16,
        height: int | None = 512,
        width: int | None = 512,
        eta: float = 0.0,
        generator: Seed | Sequence[Seed] | None = None,
        latents: Array | None = None,
        prompt_embeds: Array | None = None,
        negative_prompt_embeds: Array | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = ("latents",),
        clean_caption: bool = True,
        mask_feature: bool = True,
        enable_temporal_attentions: bool = True,
        decode_chunk_size: int | None = 14,
        prompt_attention_mask: Array | None = None,
        like_diffusers: bool = False,
    ) -> LattePipelineOutput | tuple[Any]:
        """Sample B videos. A video depends on its prompt and generator, not on its batch.

        Args:
            prompt: one text or several (P).
            negative_prompt: what to stay away from; one text, or one per prompt.
            num_inference_steps: denoising steps.
            timesteps: to be used instead, descending, where the scheduler allows it.
            guidance_scale: classifier-free guidance, where above 1.
            num_images_per_prompt: n.
            video_length: frames; 1 is a picture.
            height: in pixels, divisible by 16; 0 or None is the transformer's own. `width` alike.
            eta: of DDIM and TCD: 0 is deterministic, 1 adds most noise. Others ignore it.
            generator: a seed s (video i takes s + i), a numpy Generator, or a list with one of them
                per video.
            latents: noise to start from, (B, C, F, h, w), of unit variance.
            prompt_embeds: (P, L, W) instead of `prompt`; `negative_prompt_embeds` alike.
            output_type: "pil", "np", "ms" or "pt", "latent"; see `LattePipelineOutput`.
            return_dict: False returns a tuple of the frames alone.
            callback_on_step_end: called as (pipeline, index, timestep, tensors) after each step;
                see `pipeline_callbacks`. Setting `_interrupt` in it ends the steps.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.
            clean_caption: clean prompts as training captions were.
            mask_feature: attend to the tokens of the prompt alone, not to the padding behind them.
            enable_temporal_attentions: False makes F pictures that know nothing of each other.
            decode_chunk_size: frames decoded at a time; None is all of a video.
            prompt_attention_mask: (P, L), 1 on the rows of `prompt_embeds` to attend to, 0 behind
                them; None attends to all.
            like_diffusers: treat several videos as diffusers does: padding is zeroed instead of
                hidden, by masks that are out of order for several prompts with several videos, and
                a temporal decoder's chunks reach from one video into the next.
        Raises:
            ValueError: an argument breaks its rule; before any work.
        """
        given = dict(locals())
        del given["self"]
        return self._generate(self._arguments(given))
