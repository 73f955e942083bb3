"""What a call of a text-to-video pipeline may ask for, checked before any work.

Shapes: P prompts, n videos per prompt, B = P * n videos, C F h w latents, L W text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from mindspore import Tensor

from latte_ms.generation.pipeline_outputs import check_output_type

CALLBACK_INPUTS = ("latents", "prompt_embeds", "negative_prompt_embeds")
Seed: TypeAlias = int | np.random.Generator
Array: TypeAlias = Tensor | np.ndarray
Callback: TypeAlias = Callable[..., dict[str, Any] | None]


@dataclass(frozen=True)
class Limits:
    """What the components of a pipeline allow."""

    in_channels: int
    patch_size: int
    sample_size: int
    caption_channels: int
    video_length: int
    any_length: bool  # the transformer interpolates its temporal positions
    downsampling: int  # pixels per latent
    has_text_encoder: bool
    has_vae: bool


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call, as the user gave them; `LattePipeline.__call__` explains them."""

    prompt: str | list[str] | None
    negative_prompt: str | list[str] | None
    num_inference_steps: int
    timesteps: Sequence[int] | None
    guidance_scale: float
    num_images_per_prompt: int
    video_length: int
    height: int | None
    width: int | None
    eta: float
    generator: Seed | Sequence[Seed] | None
    latents: Array | None
    prompt_embeds: Array | None
    negative_prompt_embeds: Array | None
    output_type: str
    return_dict: bool
    callback_on_step_end: Callback | None
    callback_on_step_end_tensor_inputs: Sequence[str] | None
    clean_caption: bool
    mask_feature: bool
    enable_temporal_attentions: bool
    decode_chunk_size: int | None
    prompt_attention_mask: Array | None
    like_diffusers: bool

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1.0

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return check_texts("prompt", self.prompt)

    @property
    def num_prompts(self) -> int:
        """P."""
        if self.prompt is None and self.prompt_embeds is not None:
            return int(self.prompt_embeds.shape[0])
        return len(self.prompts)

    @property
    def num_videos(self) -> int:
        """B."""
        return self.num_prompts * self.num_images_per_prompt

    @property
    def negatives(self) -> list[str] | None:
        """One negative prompt per prompt, or None where none has to be encoded."""
        if not self.guided or self.negative_prompt_embeds is not None:
            return None
        return check_texts("negative_prompt", self.negative_prompt, self.num_prompts)

    def latent_shape(self, limits: Limits) -> tuple[int, ...]:
        """(B, C, F, h, w)."""
        height, width = (side // limits.downsampling for side in self.size(limits))
        return (self.num_videos, limits.in_channels, self.video_length, height, width)

    def size(self, limits: Limits) -> tuple[int, int]:
        """Height and width in pixels; the transformer's own where none is given."""
        own = limits.sample_size * limits.downsampling
        return self.height or own, self.width or own


def check(given: Arguments, limits: Limits) -> None:
    """Raise ValueError for whatever does not fit, naming argument, rule and value."""
    _check_texts(given)
    _check_embeddings(given, limits)
    _check_counts(given)
    _check_size(given, limits)
    _check_callback(given)
    check_output_type(given.output_type)
    if given.output_type != "latent" and not limits.has_vae:
        raise ValueError(f"`output_type` (={given.output_type!r}) needs a `vae`; take 'latent'.")
    _check_seeds(given.generator, given.num_videos)
    if given.latents is not None:
        require_shape("latents", given.latents, given.latent_shape(limits))


def generators(seeds: Seed | Sequence[Seed] | None, count: int) -> list[np.random.Generator]:
    """A generator for each of `count` videos, so that no batch size changes one.

    Args:
        seeds: a number s (video i takes s + i), one per video, or a generator, which makes the
            first video and whose children make the others; None draws seeds.
    """
    if isinstance(seeds, np.random.Generator):
        return [seeds, *(seeds.spawn(count - 1) if count > 1 else ())]
    if seeds is None:
        return [np.random.default_rng() for _ in range(count)]
    if isinstance(seeds, Sequence):
        # numpy hands a Generator back as it is.
        return [np.random.default_rng(seed) for seed in seeds]
    return [np.random.default_rng(seeds + i) for i in range(count)]


def _check_seeds(seeds: Any, count: int) -> None:
    several = isinstance(seeds, Sequence) and not isinstance(seeds, str)
    if several and len(seeds) != count:
        raise ValueError(
            f"`generator` must hold one seed or generator per video ({count}), got {len(seeds)}."
        )
    for seed in seeds if several else [seeds]:
        is_number = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
        fits = (is_number and seed >= 0) or isinstance(seed, np.random.Generator)
        if not (fits or (seed is None and not several)):
            raise ValueError(
                "`generator` must be a seed of at least 0, a numpy Generator, or a list of them, "
                f"got {seed!r}."
            )


def to_array(value: Array) -> np.ndarray:
    """A tensor or array of the user as a float32 array."""
    if isinstance(value, Tensor):
        value = value.float().asnumpy()
    return np.asarray(value, np.float32)


def input_names(callback: Callback | None, names: Sequence[str] | None) -> list[str]:
    """The tensors that a callback sees: its own `tensor_inputs` where it has any."""
    own = getattr(callback, "tensor_inputs", None)
    return list(own if own is not None else names or ())


def require_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `value` is an array of the shape `shape`."""
    require_array(name, value)
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"`{name}` must have the shape {shape}, got {tuple(value.shape)}.")


def require_array(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a Tensor or an array."""
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(f"`{name}` must be a Tensor or an array, got a {type(value).__name__}.")


def check_one_prompt(prompt: Any, embeddings: Any, negative_embeddings: Any) -> None:
    """Raise ValueError unless one of prompt and embeddings is given, negative ones with them."""
    if (prompt is None) == (embeddings is None):
        count = "none" if prompt is None else "both"
        raise ValueError(f"Give one of `prompt` and `prompt_embeds`, got {count}.")
    if embeddings is not None:
        require_array("prompt_embeds", embeddings)
    elif negative_embeddings is not None:
        raise ValueError("`negative_prompt_embeds` belong to `prompt_embeds`, got a `prompt`.")


def check_texts(name: str, texts: Any, count: int = 0) -> list[str]:
    """`texts` as a list, one text repeated for each of `count` prompts where there are any.

    Raises ValueError for anything but a text or some texts, or another number of them.
    """
    if isinstance(texts, str):
        return [texts] * max(count, 1)
    several = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    if not several or not texts:
        raise ValueError(f"`{name}` must be a text or a list of texts, got {texts!r}.")
    if count and len(texts) != count:
        raise ValueError(
            f"`{name}` must be one text, or one per prompt ({count}), got {len(texts)}."
        )
    return list(texts)


def _check_texts(given: Arguments) -> None:
    negative, embeddings = given.negative_prompt, given.negative_prompt_embeds
    check_one_prompt(given.prompt, given.prompt_embeds, embeddings)
    if given.prompt is not None:
        check_texts("prompt", given.prompt)
    if negative and embeddings is not None:
        raise ValueError("Give one of `negative_prompt` and `negative_prompt_embeds`, got both.")
    if negative is not None:
        check_texts("negative_prompt", negative, given.num_prompts)
    elif given.guided and embeddings is None:
        raise ValueError(
            f"`guidance_scale` (={given.guidance_scale}) above 1 needs a `negative_prompt`, which "
            "may be '', or `negative_prompt_embeds`, got none."
        )


def _check_embeddings(given: Arguments, limits: Limits) -> None:
    prompt, negative = given.prompt_embeds, given.negative_prompt_embeds
    if negative is not None and prompt is not None:
        require_shape("negative_prompt_embeds", negative, tuple(prompt.shape))
    if prompt is not None and (
        prompt.ndim != 3 or 0 in prompt.shape or prompt.shape[2] != limits.caption_channels
    ):
        raise ValueError(
            f"`prompt_embeds` must be (B, L, {limits.caption_channels}), got {tuple(prompt.shape)}."
        )
    if given.prompt_attention_mask is not None:
        if prompt is None:
            raise ValueError("`prompt_attention_mask` belongs to `prompt_embeds`, got a `prompt`.")
        require_shape("prompt_attention_mask", given.prompt_attention_mask, prompt.shape[:2])
        mask = to_array(given.prompt_attention_mask)
        lengths = mask.sum(1, keepdims=True)
        if lengths.min() < 1 or not np.array_equal(mask, np.arange(mask.shape[1]) < lengths):
            raise ValueError(
                "`prompt_attention_mask` must be ones followed by zeros in each row, one at least."
            )
    needed = prompt is None or given.negatives is not None
    if needed and not limits.has_text_encoder:
        missing = "prompt_embeds" if prompt is None else "negative_prompt_embeds"
        raise ValueError(
            f"Texts need a `tokenizer` and a `text_encoder`, and this pipeline lacks one; give "
            f"`{missing}`."
        )


def _check_counts(given: Arguments) -> None:
    for name in ("num_inference_steps", "num_images_per_prompt", "video_length"):
        require_count(name, getattr(given, name))
    if given.decode_chunk_size is not None:
        require_count("decode_chunk_size", given.decode_chunk_size)
    require_number("guidance_scale", given.guidance_scale)
    if not isinstance(given.eta, Real) or not 0.0 <= given.eta <= 1.0:
        raise ValueError(f"`eta` must be from 0 to 1, got {given.eta!r}.")
    times = given.timesteps
    if times is not None and (not len(times) or any(np.diff(np.asarray(times)) >= 0)):
        raise ValueError(f"`timesteps` must be descending numbers, at least one, got {times}.")


def require_count(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")


def require_number(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")


def _check_size(given: Arguments, limits: Limits) -> None:
    unit = limits.downsampling * limits.patch_size
    for name, side in zip(("height", "width"), given.size(limits), strict=True):
        require_count(name, side)
        if side % unit:
            raise ValueError(
                f"`{name}` must be divisible by {unit} ({limits.downsampling} pixels per latent "
                f"times {limits.patch_size} latents per patch), got {side}."
            )
    length = limits.video_length
    free = limits.any_length or not given.enable_temporal_attentions
    if not free and given.video_length not in (1, length):
        raise ValueError(
            f"`video_length` must be 1 or the transformer's {length}, got {given.video_length}; "
            "other lengths need a pipeline loaded with `temporal_interpolation=True`, or "
            "`enable_temporal_attentions=False`."
        )


def _check_callback(given: Arguments) -> None:
    callback = given.callback_on_step_end
    names = input_names(callback, given.callback_on_step_end_tensor_inputs)
    if callback is not None and not callable(callback):
        raise ValueError(f"`callback_on_step_end` must be callable, got {callback!r}.")
    unknown = [name for name in names if name not in CALLBACK_INPUTS]
    if unknown:
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` must be some of {list(CALLBACK_INPUTS)}, "
            f"got {unknown}."
        )
