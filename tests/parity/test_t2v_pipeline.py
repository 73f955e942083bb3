"""Text-to-video pipelines against diffusers' own, live, on random tiny networks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from mindspore import Tensor

from latte_ms import schedulers
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline, to_pixels
from tests.parity.live_pipeline import FRAMES, noise, save_live_pipeline

pytestmark = pytest.mark.slow

# Fixed before looking, relative to the largest reference value.
FORWARD, LOOP = 1e-5, 1e-4
STEPS = 3
PROMPTS = ["a cat", "a very long prompt about two dogs on a beach at night"]
NEGATIVES = ["blue", "low quality, and worse"]
Call = Callable[..., None]


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that diffusers saved, with random weights and the temporal decoder."""
    return save_live_pipeline(tmp_path_factory.mktemp("live") / "pipeline", reference)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    pipeline = diffusers.LattePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def networks(folder: Path) -> LattePipeline:
    pipeline = LattePipeline.from_pretrained(folder)
    assert pipeline.codec
    return pipeline


@pytest.fixture
def ours(networks: LattePipeline) -> LattePipeline:
    pipeline = LattePipeline(**networks.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    assert result.shape == expected.shape
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def to_torch(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@pytest.fixture
def same(theirs: Any, ours: LattePipeline) -> Call:
    """`same(**arguments)`: both pipelines give the same latents, or frames."""

    def check(bound: float = LOOP, like_diffusers: bool = True, **arguments: Any) -> None:
        options = {"num_inference_steps": STEPS, "video_length": FRAMES, "height": 32, "width": 32}
        options |= {"clean_caption": False, "output_type": "latent"} | arguments
        result = ours(**options, like_diffusers=like_diffusers).frames
        result = result if isinstance(result, np.ndarray) else result.asnumpy()
        reference = {name: to_torch(value) for name, value in options.items()}
        reference.pop("generator", None)
        expected = theirs(**reference).frames
        assert relative(result, np.asarray(expected)) <= bound

    return check


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize(("count", "side"), [(1, (4, 4)), (2, (6, 2))])
def test_batches(same: Call, scale: float, count: int, side: tuple[int, int]) -> None:
    """Prompts of different lengths, negative prompts, several videos each, two sizes."""
    same(
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        num_images_per_prompt=count,
        guidance_scale=scale,
        latents=noise(2 * count, side),
        height=8 * side[0],
        width=8 * side[1],
    )


def test_one_video(same: Call) -> None:
    """Both agree on it without the option; all output types."""
    for output in ("latent", "np", "pt"):
        same(prompt=PROMPTS[1], latents=noise(1), output_type=output, like_diffusers=False)
    same(prompt=PROMPTS[1], latents=noise(1), mask_feature=False, like_diffusers=False)
    same(prompt=PROMPTS[0], latents=noise(1, frames=1), video_length=1, like_diffusers=False)
    five = {"latents": noise(1, frames=5), "video_length": 5}
    same(prompt="", enable_temporal_attentions=False, **five, like_diffusers=False)


def test_embeddings(same: Call, theirs: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 2, 7, 32)).astype(np.float32)
    options = {"prompt_embeds": rows[0], "negative_prompt_embeds": rows[1], "negative_prompt": None}
    same(**options, num_images_per_prompt=2, latents=noise(4))
    prompt_only = {
        "prompt_embeds": rows[0],
        "mask_feature": False,
        "negative_prompt": "low quality",
    }
    prompt_only["prompt_embeds"] = rng.standard_normal((1, 30, 32)).astype(np.float32)
    same(**prompt_only, latents=noise(1))


def test_cleaned_prompts(same: Call) -> None:
    assert diffusers.utils.is_bs4_available(), "diffusers cleans nothing without bs4"
    assert diffusers.utils.is_ftfy_available(), "diffusers cleans nothing without ftfy"
    same(
        prompt="<b>A cat</b> & dog, http://a.com/x.png #123 click for more",
        clean_caption=True,
        latents=noise(1),
    )


def test_embeddings_of_encode_prompt(theirs: Any, ours: LattePipeline) -> None:
    for prompts, negatives in ((PROMPTS[0], NEGATIVES[0]), (PROMPTS, NEGATIVES)):
        expected = theirs.encode_prompt(prompts, negative_prompt=negatives)
        result = ours.encode_prompt(prompts, negative_prompt=negatives)
        for ms_rows, torch_rows in zip(result, expected, strict=True):
            assert relative(ms_rows.asnumpy(), torch_rows.detach().numpy()) <= FORWARD


def test_callbacks(theirs: Any, ours: LattePipeline) -> None:
    """All steps, with latents that the callback changes."""
    options = {"prompt": PROMPTS[0], "video_length": FRAMES, "height": 32, "width": 32}
    options |= {"num_inference_steps": STEPS, "clean_caption": False, "output_type": "latent"}
    steps: dict[str, list[np.ndarray]] = {"theirs": [], "ours": []}

    def record(name: str) -> Callable[..., dict]:
        def callback(pipeline: Any, index: int, timestep: Any, tensors: dict) -> dict:
            latents = tensors["latents"]
            values = latents.asnumpy() if isinstance(latents, Tensor) else latents.numpy()
            steps[name].append(np.append(values.ravel(), [index, int(timestep)]))
            return {"latents": latents * 0.5}

        return callback

    theirs(**options, latents=torch.from_numpy(noise(1)), callback_on_step_end=record("theirs"))
    ours(**options, latents=noise(1), callback_on_step_end=record("ours"))
    assert len(steps["ours"]) == STEPS
    for result, expected in zip(steps["ours"], steps["theirs"], strict=True):
        np.testing.assert_array_equal(result[-2:], expected[-2:])
        assert relative(result[:-2], expected[:-2]) <= LOOP


@pytest.fixture
def shared_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, list[int]], None]:
    """Give diffusers' scheduler the noise of numpy's generators, one per video."""

    def share(scheduler: Any, seeds: list[int]) -> None:
        generators = [np.random.default_rng(seed) for seed in seeds]

        def draw(shape: Any, dtype: Any = None, **_: Any) -> Any:
            rows = [generator.standard_normal((1, *shape[1:])) for generator in generators]
            return torch.tensor(np.concatenate(rows), dtype=dtype)

        module = sys.modules[type(scheduler).__module__]
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", draw)

    return share


SETTINGS: list[tuple[str, dict[str, Any], float]] = [
    *((name, {}, 0.0) for name in schedulers.SCHEDULERS),
    ("ddim", {}, 0.8),
    ("tcd", {}, 0.8),
    ("ddpm", {"variance_type": "learned_range"}, 0.0),
    ("dpm", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, 0.0),
    ("pndm", {"skip_prk_steps": True}, 0.0),
    ("unipc", {"solver_order": 3}, 0.0),
]


@pytest.mark.parametrize(("name", "settings", "eta"), SETTINGS)
def test_schedulers(
    theirs: Any,
    ours: LattePipeline,
    same: Call,
    shared_noise: Callable[[Any, list[int]], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
    eta: float,
) -> None:
    """With the pipeline's own settings, and the same noise in every step that adds noise."""
    kind = getattr(diffusers, schedulers.SCHEDULERS[name])
    other = kind.from_config(theirs.scheduler.config, **settings)
    monkeypatch.setattr(theirs, "scheduler", other)
    ours.scheduler = schedulers.create(name, dict(theirs.scheduler.config))
    shared_noise(other, [7, 8])
    same(prompt=PROMPTS, generator=[7, 8], latents=noise(2), num_inference_steps=6, eta=eta)


def test_the_temporal_decoder_mixes_videos_like_diffusers_on_request(
    folder: Path, theirs: Any, ours: LattePipeline, same: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporal = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(
        folder, subfolder="vae_temporal_decoder"
    )
    monkeypatch.setattr(theirs, "vae", temporal)
    ours.vae = LattePipeline.from_pretrained(
        folder, temporal_decoder=True, transformer=None, text_encoder=None
    ).vae
    options = {"prompt": PROMPTS, "latents": noise(2), "output_type": "np"}
    same(**options, decode_chunk_size=3)
    same(**options, decode_chunk_size=None)
    with pytest.raises(AssertionError):
        same(**options, decode_chunk_size=3, like_diffusers=False)


def test_diffusers_reads_what_is_saved_here(
    ours: LattePipeline, theirs: Any, tmp_path: Path
) -> None:
    ours.scheduler = schedulers.create("dpm", ours.scheduler.config)
    ours.save_pretrained(tmp_path)
    again = diffusers.LattePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    options = {"prompt": PROMPTS[1], "num_inference_steps": STEPS, "video_length": FRAMES}
    options |= {"height": 32, "width": 32, "clean_caption": False, "output_type": "np"}
    expected = ours(**options, latents=noise(1)).frames
    result = again(**options, latents=torch.from_numpy(noise(1))).frames
    assert type(again.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert relative(result, expected) <= LOOP


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm"])
def test_video_to_video(theirs: Any, networks: LattePipeline, name: str) -> None:
    """diffusers has no such pipeline for Latte; its parts are combined as in its other ones."""
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 32, 3), np.uint8)
    pipeline = LatteVideoToVideoPipeline(**networks.components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = schedulers.create(name, dict(theirs.scheduler.config))
    result = pipeline(
        video,
        PROMPTS[0],
        num_inference_steps=6,
        strength=0.7,
        generator=3,
        clean_caption=False,
        output_type="latent",
    ).frames.asnumpy()
    draw = np.random.default_rng(3)
    posterior, added = (
        torch.from_numpy(draw.standard_normal(shape).astype(np.float32))
        for shape in ((FRAMES, 4, 4, 4), (1, 4, FRAMES, 4, 4))
    )
    with torch.no_grad():
        expected = torch_video_to_video(theirs, name, to_pixels(video)[0], posterior, added)
    assert relative(result, expected.numpy()) <= LOOP


def torch_video_to_video(pipeline: Any, name: str, pixels: Any, posterior: Any, noise: Any) -> Any:
    kind = getattr(diffusers, schedulers.SCHEDULERS[name])
    scheduler = kind.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(6)
    timesteps = scheduler.timesteps[2:]  # the last 70% of 6 steps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(2)
    moments = pipeline.vae.encode(torch.from_numpy(pixels)).latent_dist
    latents = (moments.mean + moments.std * posterior) * pipeline.vae.config.scaling_factor
    x = latents.permute(1, 0, 2, 3)[None]
    x = scheduler.add_noise(x, noise, timesteps[:1])
    prompt, negative = pipeline.encode_prompt(PROMPTS[0])
    text = torch.cat([negative, prompt])
    for t in timesteps:
        scaled = scheduler.scale_model_input(torch.cat([x, x]), t)
        output = pipeline.transformer(scaled, t.expand(2), text, return_dict=False)[0][:, :4]
        null, conditional = output.chunk(2)
        x = scheduler.step(null + 7.5 * (conditional - null), t, x, return_dict=False)[0]
    return x
