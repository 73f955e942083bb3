"""Video to video: accepted forms of a video, its size, its noise."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from latte_ms import schedulers
from latte_ms.diffusion.noise import generators
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.video_to_video import (
    LatteVideoToVideoPipeline,
    VideoRequest,
    cover_and_crop,
    to_pixels,
)

Error = Callable[[np.ndarray, np.ndarray], float]


@pytest.fixture
def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


@pytest.fixture
def pipeline(small: LattePipeline) -> LatteVideoToVideoPipeline:
    """Over the components of a text-to-video pipeline."""
    pipeline = LatteVideoToVideoPipeline(**small.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def options(options: dict[str, Any], video: np.ndarray) -> dict[str, Any]:
    for name in ("height", "width", "video_length"):
        del options[name]
    return options | {"video": video, "num_inference_steps": 4}


def test_forms_of_one_video(video: np.ndarray) -> None:
    expected = video.transpose(0, 3, 1, 2)[None].astype(np.float32) / 127.5 - 1
    floats = video.astype(np.float32) / 255
    images = [Image.fromarray(frame) for frame in video]
    forms: list[Any] = [video, video[None], floats, list(video), images, [images]]
    forms.append(Tensor(floats.transpose(0, 3, 1, 2)))
    for form in forms:
        result = to_pixels(form)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=1e-6)
    two = to_pixels([images, images[::-1]])
    np.testing.assert_allclose(two[1], expected[0, ::-1], atol=1e-6)
    with pytest.raises(ValueError, match=r"frames of one size, got \[\(8, 8, 3\), \(16, 16, 3\)\]"):
        to_pixels([video[0], video[1, :8, :8]])


def test_a_video_is_scaled_and_its_centre_cropped(video: np.ndarray) -> None:
    pixels = to_pixels(video)
    assert cover_and_crop(pixels, 16, 16) is pixels
    flat = np.full((1, 2, 3, 20, 40), 0.25, np.float32)
    assert cover_and_crop(flat, 16, 48).shape == (1, 2, 3, 16, 48)
    np.testing.assert_array_equal(cover_and_crop(flat, 16, 48), 0.25)
    ramp = np.broadcast_to(np.linspace(-1, 1, 40, dtype=np.float32), (1, 1, 3, 20, 40))
    cropped = cover_and_crop(ramp, 20, 20)[0, 0, 0, 0]
    np.testing.assert_allclose(cropped, np.linspace(-1, 1, 40)[10:30], atol=1e-6)
    half = cover_and_crop(ramp, 10, 20)[0, 0, 0, 0]
    np.testing.assert_allclose(half[1:-1], ramp[0, 0, 0, 0].reshape(20, 2).mean(1)[1:-1], atol=1e-6)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm", "pndm"])
def test_the_last_steps_are_run_on_the_noised_video(
    pipeline: LatteVideoToVideoPipeline,
    small: LattePipeline,
    options: dict[str, Any],
    error: Error,
    name: str,
) -> None:
    """Compared with the same steps done by hand; strength counts steps as in diffusers."""
    settings = {"skip_prk_steps": True} if name == "pndm" else {}
    pipeline.scheduler = schedulers.create(name, small.scheduler.config, **settings)
    timesteps: list[float] = []

    def record(pipeline: Any, index: int, timestep: Tensor, tensors: dict) -> dict:
        timesteps.append(float(timestep))
        return tensors

    options |= {"num_inference_steps": 8, "strength": 0.5}
    result = pipeline(**options, callback_on_step_end=record).frames.asnumpy()
    steps = schedulers.set_steps(schedulers.copy_of(pipeline.scheduler), 8)
    last = list(steps.timesteps[4 * pipeline.scheduler.order :])
    if name == "pndm":  # takes its first step twice, wherever it begins
        last = [*last[1:3], *last[2:]]
    assert timesteps == [float(t) for t in last]
    assert pipeline.num_timesteps == len(timesteps)
    source = np.random.default_rng(0)
    posterior = source.standard_normal((1, 4, 4, 2, 2)).astype(np.float32)
    noise = source.standard_normal((1, 4, 4, 2, 2)).astype(np.float32)
    clean = small.codec.encode(to_pixels(options["video"]), posterior)
    noise = noise.transpose(0, 2, 1, 3, 4)
    alpha_bar = pipeline.scheduler.alphas_cumprod.asnumpy()
    level = np.interp(timesteps[0], np.arange(1000), alpha_bar)
    expected = np.sqrt(level) * clean + np.sqrt(1 - level) * noise
    if name == "euler":  # in units of the clean latents
        expected = clean + noise * np.sqrt((1 - level) / level)
    request, scheduler = VideoRequest(**options), schedulers.copy_of(pipeline.scheduler)
    steps = pipeline.set_steps(request, scheduler)
    start = pipeline.initial_latents(request, pipeline.limits(), scheduler, steps, generators(0, 1))
    assert error(start.asnumpy(), expected.astype(np.float32)) < 1e-4
    np.testing.assert_array_equal(pipeline(**options).frames.asnumpy(), result)


def test_strength_is_the_distance_from_the_video(
    pipeline: LatteVideoToVideoPipeline, options: dict[str, Any], video: np.ndarray
) -> None:
    """A low strength stays near the encoded video; a higher one moves further away."""
    clean = pipeline.codec.encode(to_pixels(video)).transpose(0, 2, 1, 3, 4)
    options |= {"num_inference_steps": 100, "guidance_scale": 1.0}
    distances = []
    for strength in (0.02, 0.3, 1.0):
        frames = pipeline(**options, strength=strength).frames.asnumpy()
        distances.append(float(np.abs(frames - clean).mean()))
    assert distances == sorted(distances)


def test_bad_videos(pipeline: LatteVideoToVideoPipeline, options: dict[str, Any]) -> None:
    floats = np.zeros((4, 16, 16, 3), np.float32)
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"video": "a.mp4"},
            r"`video` must be an array, a Tensor or a list of images, got a str",
        ),
        ({"video": floats * np.nan}, r"numbers in 0\.\.1, got nan"),
        ({"video": floats + 2}, r"numbers in 0\.\.1, got 2"),
        ({"strength": "x"}, r"`strength` must be a finite number, got 'x'"),
        ({"strength": None}, r"`strength` must be a finite number, got None"),
        ({"strength": 0.0}, r"`strength` must be above 0 and at most 1, got 0"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            pipeline(**(options | changes))
    pipeline.vae = None
    with pytest.raises(ValueError, match="`video` needs a `vae`"):
        pipeline(**options)


def test_bfloat16_videos(pipeline: LatteVideoToVideoPipeline, options: dict[str, Any]) -> None:
    tensor = Tensor(np.full((4, 3, 16, 16), 0.5, np.float32))
    expected = pipeline(**(options | {"video": tensor})).frames.asnumpy()
    result = pipeline(**(options | {"video": tensor.astype(ms.bfloat16)})).frames.asnumpy()
    np.testing.assert_array_equal(result, expected)


def test_videos_and_prompts_are_paired(
    pipeline: LatteVideoToVideoPipeline, options: dict[str, Any], video: np.ndarray, error: Error
) -> None:
    """A video does not depend on its batch; one video serves all prompts."""
    prompts, videos = ["a cat", "two dogs on a beach"], np.stack([video, video[::-1]])
    options |= {"prompt": prompts, "generator": [1, 2]}
    both = pipeline(**(options | {"video": videos})).frames.asnumpy()
    options |= {"prompt": prompts[1], "generator": [2]}
    alone = pipeline(**(options | {"video": video[::-1]})).frames.asnumpy()
    assert error(both[1:], alone) < 1e-5
    options |= {"prompt": prompts, "generator": [1, 2]}
    same = pipeline(**options).frames.asnumpy()
    assert error(same[:1], both[:1]) < 1e-5
    assert error(same[1:], both[1:]) > 1e-3


@pytest.mark.slow
def test_frames_of_another_size(
    pipeline: LatteVideoToVideoPipeline, options: dict[str, Any]
) -> None:
    wide = np.zeros((4, 24, 40, 3), np.uint8)
    frames = pipeline(**(options | {"video": wide, "height": 16, "width": 16})).frames
    assert frames.shape == (1, 4, 4, 2, 2)
    image = pipeline(**(options | {"video": wide[:1, :16, :32]})).frames
    assert image.shape == (1, 4, 1, 2, 4)
