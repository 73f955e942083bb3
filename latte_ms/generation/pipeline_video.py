"""Video to video with Latte: a given video, noised in part and denoised under a text.

Shapes: V videos of F frames of H x W pixels, P prompts, n videos per prompt, B = P * n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor
from PIL import Image

from latte_ms.data.transforms import resized_positions, sample_bilinear
from latte_ms.generation import schedulers
from latte_ms.generation.pipeline_generator import LatentGenerator
from latte_ms.generation.pipeline_inputs import (
    Arguments,
    Array,
    Callback,
    Limits,
    Seed,
    require_number,
    to_array,
)
from latte_ms.generation.pipeline_outputs import LattePipelineOutput
from latte_ms.generation.schedulers import Steps

Video: TypeAlias = (
    Array | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | Sequence[np.ndarray]
)


@dataclass(frozen=True)
class VideoArguments(Arguments):
    """The arguments of a call with a video to start from."""

    pixels: np.ndarray  # (V, F, 3, H, W) float32 in [-1, 1]
    strength: float


class LatteVideoToVideoPipeline(LatentGenerator):
    """Videos from videos and texts. Takes the components of a `LattePipeline`."""

    def __call__(
        self,
        video: Video,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = "",
        strength: float = 0.6,
        num_inference_steps: int = 50,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
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
        """Sample B videos that begin as `video`.

        Args:
            video: one for all prompts, or one per prompt: arrays (F, H, W, 3) or (V, F, H, W, 3),
                uint8 or floats in 0..1, Tensors (F, 3, H, W) or (V, F, 3, H, W) in 0..1, or lists
                of pictures.
            strength: how much of the way to noise, and back, above 0: a little stays near the
                video, 1 forgets it. Of the steps its share is run, the later ones.
            height: in pixels; a video of another size is scaled and its centre cut out. None keeps
                the video's. `width` alike.
            latents: the noise to be added, (B, C, F, h, w).

        The other arguments, and what is returned and raised, are those of `LattePipeline`.
        """
        given = dict(locals())
        del given["self"]
        return self._generate(self._arguments(given))

    def _arguments(self, given: dict[str, Any]) -> Arguments:
        rest = dict(given)
        pixels = to_pixels(rest.pop("video"))
        _, frames, _, height, width = pixels.shape
        sizes = {"height": rest["height"] or height, "width": rest["width"] or width}
        arguments = VideoArguments(**(rest | sizes), video_length=frames, pixels=pixels)
        check_video(arguments)
        return arguments

    def _prepared(self, given: Arguments, scheduler: Any) -> tuple[Limits, Steps]:
        limits, steps = super()._prepared(given, scheduler)
        if not limits.has_vae:
            raise ValueError("`video` needs a `vae` to be encoded, and this pipeline has none.")
        return limits, steps

    def _steps(self, given: Arguments, scheduler: Any) -> Steps:
        assert isinstance(given, VideoArguments)
        count = given.num_inference_steps
        return schedulers.set_steps(scheduler, count, given.timesteps, given.strength)

    def _start(
        self,
        given: Arguments,
        limits: Limits,
        steps: Steps,
        sources: list[np.random.Generator],
    ) -> Tensor:
        """The video's latents (B, C, F, h, w), as noisy as the first step expects."""
        assert isinstance(given, VideoArguments)
        pixels = fit(given.pixels, *given.size(limits))
        shape = given.latent_shape(limits)
        frames_first = (shape[0], shape[2], shape[1], *shape[3:])  # (B, F, C, h, w)
        drawn = np.stack([source.standard_normal(frames_first[1:]) for source in sources])
        pixels = np.repeat(pixels, shape[0] // len(pixels), 0)
        clean = self.codec.encode(pixels, drawn.astype(np.float32))
        noise = Tensor(self._noise(given, limits, sources))
        latents = Tensor(np.ascontiguousarray(clean.transpose(0, 2, 1, 3, 4)))
        return schedulers.add_noise(self.scheduler, latents, noise, steps)


def check_video(given: VideoArguments) -> None:
    """Raise ValueError for a strength out of range, or videos that do not go with the prompts."""
    require_number("strength", given.strength)
    if not 0.0 < given.strength <= 1.0:
        raise ValueError(f"`strength` must be above 0 and at most 1, got {given.strength!r}.")
    videos = len(given.pixels)
    if videos > 1 and given.num_prompts != videos:
        raise ValueError(
            f"`video` must be one, or one per prompt ({given.num_prompts}), got {videos}."
        )


def to_pixels(video: Video) -> np.ndarray:
    """One or several videos in any of the accepted forms as (V, F, 3, H, W) float32 in [-1, 1].

    Raises ValueError for another form, values out of range, or frames of different sizes.
    """
    is_tensor = isinstance(video, Tensor)
    array = _numbers(video) if isinstance(video, Tensor) else _stacked(video)
    if array.ndim == 4:
        array = array[None]
    channels = 2 if is_tensor else -1
    if array.ndim != 5 or array.shape[channels] != 3 or 0 in array.shape:
        form = "(V, F, 3, H, W)" if is_tensor else "(V, F, H, W, 3)"
        raise ValueError(f"`video` must be {form} or one of V, got {array.shape}.")
    if not is_tensor:
        array = array.transpose(0, 1, 4, 2, 3)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255.0
    if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        raise ValueError(
            f"`video` must be uint8, or numbers in 0..1, got {array.min()} to {array.max()}."
        )
    return np.ascontiguousarray(array, np.float32) * 2.0 - 1.0


def fit(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Videos (V, F, 3, H, W) scaled to cover `height` x `width`, and their centre of that size."""
    old_height, old_width = pixels.shape[3:]
    if (old_height, old_width) == (height, width):
        return pixels
    scale = max(height / old_height, width / old_width)
    rows = _centred(old_height, height, scale)
    columns = _centred(old_width, width, scale)
    flat = pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 2, 3, 1)  # (V*F, H, W, 3)
    fitted = sample_bilinear(flat, rows, columns).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(fitted).reshape(*pixels.shape[:3], height, width)


def _centred(old: int, new: int, scale: float) -> np.ndarray:
    """Positions of the middle `new` pixels of an axis of `old` ones, resized by `scale`."""
    start = (round(old * scale) - new) // 2
    return resized_positions(old, scale, start, new)


def _numbers(tensor: Tensor) -> np.ndarray:
    """uint8 as it is, any other type as float32."""
    return tensor.asnumpy() if tensor.dtype == ms.uint8 else to_array(tensor)


def _stacked(video: Any) -> np.ndarray:
    """Arrays, or pictures in one list or in one per video, as one array."""
    if isinstance(video, np.ndarray):
        return video
    if isinstance(video, str | bytes) or not isinstance(video, Sequence) or not len(video):
        kind = type(video).__name__
        raise ValueError(f"`video` must be an array, a Tensor or a list of pictures, got a {kind}.")
    first = video[0]
    if isinstance(first, Image.Image):
        video = [np.asarray(picture.convert("RGB")) for picture in video]
    elif isinstance(first, Sequence):
        video = [_stacked(one) for one in video]
    shapes = {np.shape(one) for one in video}
    if len(shapes) > 1:
        raise ValueError(f"`video` must have frames of one size, got {sorted(shapes)}.")
    return np.stack([np.asarray(one) for one in video])
