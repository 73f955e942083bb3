"""Video to video with Latte: a given video, partly noised and denoised under a prompt.

Shapes: V videos of F frames of H x W pixels, P prompts, n videos per prompt, B = P * n.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor
from PIL import Image

from latte_ms import schedulers
from latte_ms.data.transforms import resized_positions, sample_bilinear
from latte_ms.diffusion.noise import standard_normal
from latte_ms.generation.pipelines.latte import Output, PromptPipeline
from latte_ms.generation.pipelines.request import (
    SIDE,
    Array,
    RequestLimits,
    TextRequest,
    to_float32,
)
from latte_ms.options import called_with, option, positive_fraction
from latte_ms.schedulers import StepPlan


@dataclass(frozen=True)
class PreparedVideo:
    """A video that several requests share: the result of `to_pixels`."""

    pixels: np.ndarray  # (V, F, 3, H, W) float32 in [-1, 1]


Video: TypeAlias = (
    PreparedVideo
    | Array
    | Sequence[Image.Image]
    | Sequence[Sequence[Image.Image]]
    | Sequence[np.ndarray]
)


@dataclass(frozen=True)
class VideoRequest(TextRequest):
    """A request for videos that start from a given one: the options of `TextRequest`, and these."""

    video_length: int | None = field(init=False)
    height: int | None = option(
        None,
        "In pixels; a video of another size is scaled and its centre cropped. None keeps the "
        "video's.",
        SIDE,
    )
    width: int | None = option(None, "Like `height`.", SIDE)
    video: Video = option(
        None,
        "One for all prompts, or one per prompt: arrays (F, H, W, 3) or (V, F, H, W, 3), uint8 or "
        "floats in 0..1, Tensors (F, 3, H, W) or (V, F, 3, H, W) in 0..1, or lists of images.",
        recipe=False,
        kw_only=True,
    )
    strength: float = option(
        0.6,
        "How much noise is added and removed again: near 0 stays near the video, 1 ignores it. "
        "Only this fraction of the steps, the last ones, is run.",
        positive_fraction,
        kw_only=True,
    )
    pixels: np.ndarray = field(init=False, repr=False, compare=False)  # (V, F, 3, H, W) in [-1, 1]

    def __post_init__(self) -> None:
        pixels = to_pixels(self.video)
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "video_length", pixels.shape[1])
        super().__post_init__()

    def size(self, limits: RequestLimits) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height or self.pixels.shape[3], self.width or self.pixels.shape[4]

    def check(self, limits: RequestLimits) -> None:
        """Raise ValueError for options that do not fit together or do not fit the components."""
        super().check(limits)
        videos = len(self.pixels)
        if videos > 1 and self.num_prompts != videos:
            raise ValueError(
                f"`video` must be one, or one per prompt ({self.num_prompts}), got {videos}."
            )
        if not limits.has_vae:
            raise ValueError("`video` needs a `vae` to be encoded, and this pipeline has none.")


class LatteVideoToVideoPipeline(PromptPipeline):
    """Videos from videos and prompts. Takes the components of a `LattePipeline`."""

    @called_with(VideoRequest, first="video")
    def __call__(self, request: VideoRequest) -> Output:
        """Sample B videos by adding the noise `latents` to `video` and denoising it.

        Raises ValueError where an argument breaks its rule, before any work.
        """
        return self.generate(request)

    @called_with(VideoRequest, first="video")
    def check_inputs(self, request: VideoRequest) -> None:
        """Raise what a call with these arguments would raise before any work."""
        self.check(request)

    def set_steps(self, request: TextRequest, scheduler: Any) -> StepPlan:
        """The steps of a request, the last ones by its strength."""
        assert isinstance(request, VideoRequest)
        return schedulers.set_steps(
            scheduler,
            request.num_inference_steps,
            request.timesteps,
            request.strength,
            request.like_diffusers,
        )

    def initial_latents(
        self,
        request: TextRequest,
        limits: RequestLimits,
        scheduler: Any,
        steps: StepPlan,
        rngs: list[np.random.Generator],
    ) -> Tensor:
        """The video's latents (B, F, C, h, w), as noisy as the first step expects."""
        assert isinstance(request, VideoRequest)
        b, c, f, h, w = request.latent_shape(limits)
        pixels = cover_and_crop(request.pixels, *request.size(limits))
        posterior_noise = standard_normal(rngs, (f, c, h, w))
        clean = self.codec.encode(np.repeat(pixels, b // len(pixels), 0), posterior_noise)
        noise = self.initial_noise(request, limits, rngs)
        return schedulers.add_noise(scheduler, Tensor(clean), noise, steps)


def to_pixels(video: Video) -> np.ndarray:
    """One or several videos in any of the accepted forms as (V, F, 3, H, W) float32 in [-1, 1].

    Raises ValueError for another form, values out of range, or frames of different sizes.
    """
    if isinstance(video, PreparedVideo):
        return video.pixels
    is_tensor = isinstance(video, Tensor)
    array = _as_numpy(video) if isinstance(video, Tensor) else _stacked(video)
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


def cover_and_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
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


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """uint8 as it is, any other dtype as float32."""
    return tensor.asnumpy() if tensor.dtype == ms.uint8 else to_float32(tensor)


def _stacked(video: Any) -> np.ndarray:
    """Arrays, or images in one list or in one per video, as one array."""
    if isinstance(video, np.ndarray):
        return video
    if isinstance(video, str | bytes) or not isinstance(video, Sequence) or not len(video):
        kind = type(video).__name__
        raise ValueError(f"`video` must be an array, a Tensor or a list of images, got a {kind}.")
    first = video[0]
    if isinstance(first, Image.Image):
        video = [np.asarray(image.convert("RGB")) for image in video]
    elif isinstance(first, Sequence):
        video = [_stacked(one) for one in video]
    shapes = {np.shape(one) for one in video}
    if len(shapes) > 1:
        raise ValueError(f"`video` must have frames of one size, got {sorted(shapes)}.")
    return np.stack([np.asarray(one) for one in video])
