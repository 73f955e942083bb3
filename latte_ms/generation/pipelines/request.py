"""What one call of a text-to-video pipeline asks for (options and rules) and what it returns.

Shapes: P prompts, n videos per prompt, B = P * n videos, C latent channels, F frames, h w latent
size, H W pixels, L tokens, E channels of the text encoder.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from mindspore import Tensor
from PIL import Image

from latte_ms.diffusion.guidance import GuidanceOptions
from latte_ms.diffusion.noise import SeedOrGenerator, check_seeds
from latte_ms.media import to_uint8, to_unit
from latte_ms.messages import shown
from latte_ms.options import (
    check_rules,
    descending,
    fraction,
    integers,
    number,
    one_of,
    option,
    optional,
    positive_integer,
)
from latte_ms.text.encoder import check_mask

CALLBACK_INPUTS = ("latents", "prompt_embeds", "negative_prompt_embeds")
OUTPUT_TYPES = ("pil", "np", "ms", "pt", "latent")
Array: TypeAlias = Tensor | np.ndarray
SIDE = optional(integers(0, 65_536))  # of a frame in pixels
_MAX_LATENTS = 2**31 - 1  # values of a call's latents, which kernels count in 32 bits
Callback: TypeAlias = Callable[..., dict[str, Any] | None]


@dataclass(frozen=True)
class RequestLimits:
    """What a request must fit: facts about the components of a pipeline."""

    in_channels: int
    patch_size: int
    sample_size: int
    caption_channels: int
    video_length: int
    any_length: bool  # the transformer interpolates its temporal positions
    downsampling: int  # pixels per latent
    can_encode_prompts: bool
    has_vae: bool


@dataclass(frozen=True)
class TextRequest(GuidanceOptions):
    """A request of videos, or images, for prompts: diffusers' names, order and defaults."""

    prompt: str | list[str] | None = option(None, "One prompt or several (P).", recipe=False)
    negative_prompt: str | list[str] | None = option(
        "", "What to avoid; one prompt, or one per prompt.", recipe=str
    )
    num_inference_steps: int = option(50, "Denoising steps.", positive_integer)
    timesteps: list[int] | None = option(
        None,
        "Timesteps to denoise through instead, descending, where the scheduler allows it.",
        optional(descending),
    )
    guidance_scale: float = option(
        7.5, "Scale of classifier-free guidance, which is on above 1.", number
    )
    num_images_per_prompt: int = option(1, "Videos per prompt (n).", positive_integer)
    video_length: int | None = option(
        None,
        "Frames (F), also called `num_frames`; 1 makes an image, None is the transformer's own "
        "number.",
        optional(positive_integer),
        alias="num_frames",
    )
    height: int | None = option(
        512,
        "In pixels, divisible by the side of a patch in pixels (16 for Latte-1); 0 or None is the "
        "transformer's own size.",
        SIDE,
    )
    width: int | None = option(512, "Like `height`.", SIDE)
    eta: float = option(
        0.0,
        "Of DDIM and TCD: 0 is deterministic, 1 adds the most noise. Others ignore it.",
        fraction,
    )
    generator: SeedOrGenerator | Sequence[SeedOrGenerator] | None = option(
        None,
        "A seed s (video i takes s + i), a numpy Generator, or a list with one of them per video.",
        recipe=False,
    )
    latents: Array | None = option(
        None, "Noise to start from, (B, C, F, h, w), of unit variance.", recipe=False
    )
    prompt_embeds: Array | None = option(None, "(P, L, E) instead of `prompt`.", recipe=False)
    negative_prompt_embeds: Array | None = option(
        None, "(P, L, E) instead of `negative_prompt`.", recipe=False
    )
    output_type: str = option(
        "pil",
        '"pil", "np", "ms" or "pt", "latent"; see `LattePipelineOutput`.',
        one_of(*OUTPUT_TYPES),
        recipe=False,
    )
    return_dict: bool = option(True, "False returns a tuple of the frames alone.", recipe=False)
    callback_on_step_end: Callback | None = option(
        None,
        "Called as (pipeline, index, timestep, tensors) after each step; see `run_callback`. "
        "Setting `_interrupt` of the pipeline in it ends the steps.",
        recipe=False,
    )
    callback_on_step_end_tensor_inputs: Sequence[str] | None = option(
        ("latents",), "Names of the tensors that the callback is given.", recipe=False
    )
    clean_caption: bool = option(True, "Clean prompts as training captions were.")
    mask_feature: bool = option(
        True, "Attend to the tokens of the prompt alone, not to the padding after them."
    )
    enable_temporal_attentions: bool = option(
        True, "False makes F images that do not depend on each other."
    )
    decode_chunk_size: int | None = option(
        14, "Frames decoded at a time; None decodes a whole video.", optional(positive_integer)
    )
    prompt_attention_mask: Array | None = option(
        None,
        "(P, L), 1 on the rows of `prompt_embeds` to attend to, 0 after them; None attends to all.",
        recipe=False,
    )
    like_diffusers: bool = option(
        False,
        "Treat several videos as diffusers does: padding is zeroed and not masked, masks are "
        "ordered differently from prompts, and the chunks of a temporal decoder span videos; and "
        "step as its schedulers do, some of which end before the clean sample.",
    )

    def __post_init__(self) -> None:
        check_rules(self)

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self.guidance_scale > 1.0

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return as_prompts("prompt", self.prompt)

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
        return as_prompts("negative_prompt", self.negative_prompt, self.num_prompts)

    def size(self, limits: RequestLimits) -> tuple[int, int]:
        """Height and width in pixels."""
        own = limits.sample_size * limits.downsampling
        return self.height or own, self.width or own

    def latent_shape(self, limits: RequestLimits) -> tuple[int, int, int, int, int]:
        """(B, C, F, h, w), as diffusers has it."""
        height, width = (side // limits.downsampling for side in self.size(limits))
        frames = self.video_length or limits.video_length
        return (self.num_videos, limits.in_channels, frames, height, width)

    def check(self, limits: RequestLimits) -> None:
        """Raise ValueError for options that do not fit together or do not fit the components."""
        _check_prompts(self)
        _check_embeddings(self, limits)
        _check_size(self, limits)
        _check_callback(self)
        if self.output_type != "latent" and not limits.has_vae:
            raise ValueError(
                f"`output_type` (={self.output_type!r}) needs a `vae`; choose 'latent'."
            )
        check_seeds("generator", self.generator, self.num_videos)
        if self.latents is not None:
            require_shape("latents", self.latents, self.latent_shape(limits))


def as_prompts(name: str, value: Any, count: int | None = None) -> list[str]:
    """`value` as a list; a single prompt is repeated `count` times.

    Raises ValueError for anything but a prompt or a list of prompts, or another number of them.
    """
    if isinstance(value, str):
        return [value] * (count or 1)
    several = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if not several or not value:
        raise ValueError(f"`{name}` must be a string or a list of strings, got {shown(value)}.")
    if count is not None and len(value) != count:
        raise ValueError(
            f"`{name}` must be one string, or one per prompt ({count}), got {len(value)}."
        )
    return list(value)


def check_prompt_or_embeddings(prompt: Any, embeddings: Any, negative_embeddings: Any) -> None:
    """Raise ValueError unless one of `prompt` and `prompt_embeds` is given.

    Negative embeddings need `prompt_embeds`.
    """
    if (prompt is None) == (embeddings is None):
        count = "none" if prompt is None else "both"
        raise ValueError(f"Give one of `prompt` and `prompt_embeds`, got {count}.")
    if embeddings is not None:
        require_array("prompt_embeds", embeddings)
    elif negative_embeddings is not None:
        raise ValueError("`negative_prompt_embeds` needs `prompt_embeds`, got `prompt`.")


def check_alike(requests: Mapping[str, TextRequest]) -> None:
    """Raise ValueError unless requests have one prompt each, to be encoded in the same way."""
    names = ("negative_prompt", "guided", "clean_caption")
    first = next(iter(requests.values()), None)
    for key, request in requests.items():
        count = 0 if request.prompt is None else len(request.prompts)
        if count != 1:
            raise ValueError(f"`requests` must have one prompt each, got {count} for {shown(key)}.")
        for name in names:
            value, expected = getattr(request, name), getattr(first, name)
            if value != expected:
                raise ValueError(
                    f"`requests` must all have the same `{name}` ({shown(expected)}), "
                    f"got {shown(value)} for {shown(key)}."
                )


def to_float32(value: Array) -> np.ndarray:
    """A tensor or array of the user as a float32 array."""
    if isinstance(value, Tensor):
        value = value.float().asnumpy()
    return np.asarray(value, np.float32)


def require_array(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a Tensor or an array."""
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(f"`{name}` must be a Tensor or an array, got a {type(value).__name__}.")


def require_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `value` is an array of the shape `shape`."""
    require_array(name, value)
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"`{name}` must have the shape {shape}, got {tuple(value.shape)}.")


def callback_inputs(callback: Callback | None, names: Sequence[str] | None) -> list[str]:
    """The tensors that a callback sees: its own `tensor_inputs` where it has any."""
    own = getattr(callback, "tensor_inputs", None)
    return list(own if own is not None else names or ())


def _check_prompts(request: TextRequest) -> None:
    negative, embeddings = request.negative_prompt, request.negative_prompt_embeds
    check_prompt_or_embeddings(request.prompt, request.prompt_embeds, embeddings)
    if request.prompt is not None:
        as_prompts("prompt", request.prompt)
    if negative and embeddings is not None:
        raise ValueError("Give one of `negative_prompt` and `negative_prompt_embeds`, got both.")
    if negative is not None:
        as_prompts("negative_prompt", negative, request.num_prompts)
    elif request.guided and embeddings is None:
        raise ValueError(
            f"`guidance_scale` (={request.guidance_scale}) above 1 needs a `negative_prompt`, "
            "which may be '', or `negative_prompt_embeds`, got none."
        )


def _check_embeddings(request: TextRequest, limits: RequestLimits) -> None:
    prompt, negative = request.prompt_embeds, request.negative_prompt_embeds
    if negative is not None and prompt is not None:
        require_shape("negative_prompt_embeds", negative, tuple(prompt.shape))
    if prompt is not None and (
        prompt.ndim != 3 or 0 in prompt.shape or prompt.shape[2] != limits.caption_channels
    ):
        raise ValueError(
            f"`prompt_embeds` must be (P, L, {limits.caption_channels}), got {tuple(prompt.shape)}."
        )
    if request.prompt_attention_mask is not None:
        if prompt is None:
            raise ValueError("`prompt_attention_mask` needs `prompt_embeds`, got `prompt`.")
        require_shape("prompt_attention_mask", request.prompt_attention_mask, prompt.shape[:2])
        check_mask("prompt_attention_mask", to_float32(request.prompt_attention_mask))
    if (prompt is None or request.negatives is not None) and not limits.can_encode_prompts:
        missing = "prompt_embeds" if prompt is None else "negative_prompt_embeds"
        raise ValueError(
            f"Prompts need a `tokenizer` and a `text_encoder`, and one is missing; give "
            f"`{missing}`."
        )


def _check_size(request: TextRequest, limits: RequestLimits) -> None:
    unit = limits.downsampling * limits.patch_size
    for name, side in zip(("height", "width"), request.size(limits), strict=True):
        positive_integer(name, side)
        if side % unit:
            raise ValueError(
                f"`{name}` must be divisible by {unit} ({limits.downsampling} pixels per latent "
                f"times {limits.patch_size} latents per patch), got {side}."
            )
    shape = request.latent_shape(limits)
    if math.prod(shape) > _MAX_LATENTS:
        raise ValueError(
            f"`num_images_per_prompt`, `video_length`, `height` and `width` ask for latents of "
            f"{shape}, more than {_MAX_LATENTS} values."
        )
    length = limits.video_length
    free = limits.any_length or not request.enable_temporal_attentions
    if not free and request.video_length not in (None, 1, length):
        raise ValueError(
            f"`video_length` must be 1 or the transformer's {length}, got {request.video_length}; "
            "other lengths need a pipeline loaded with `temporal_interpolation=True`, or "
            "`enable_temporal_attentions=False`."
        )


def _check_callback(request: TextRequest) -> None:
    callback = request.callback_on_step_end
    names = callback_inputs(callback, request.callback_on_step_end_tensor_inputs)
    if callback is not None and not callable(callback):
        raise ValueError(f"`callback_on_step_end` must be callable, got {shown(callback)}.")
    unknown = [name for name in names if name not in CALLBACK_INPUTS]
    if unknown:
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` must be some of {list(CALLBACK_INPUTS)}, "
            f"got {shown(unknown)}."
        )


class LattePipelineOutput(NamedTuple):
    """What a pipeline returns: `.frames[0]`, `[0][0]` and `["frames"][0]` are the first video.

    Attributes:
        frames: "pil" a list of B lists of F images, "np" (B, F, H, W, 3) float32 in 0..1, "ms" and
            its alias "pt" a Tensor (B, F, 3, H, W) in 0..1, "latent" a Tensor (B, C, F, h, w).
    """

    frames: Any

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else tuple(self)[key]

    def keys(self) -> tuple[str, ...]:
        """Names of the fields."""
        return self._fields

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields without names."""
        return tuple(self)


def to_output(pixels: np.ndarray, output_type: str) -> Any:
    """Pixel values (B, F, 3, H, W) as `output_type`, any but "latent"."""
    frames = to_unit(pixels)
    if output_type in ("ms", "pt"):
        return Tensor(frames)
    frames = frames.transpose(0, 1, 3, 4, 2)  # (B, F, H, W, 3)
    if output_type == "np":
        return np.ascontiguousarray(frames)
    return [[Image.fromarray(frame) for frame in video] for video in to_uint8(frames)]
