"""Text to video and text to image: values recorded from diffusers, and the rules of a call."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from latte_ms import schedulers
from latte_ms.generation.denoising import denoiser_of
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.request import LattePipelineOutput
from latte_ms.weights.pretrained import load_autoencoder

# Fixed before looking, relative to the largest reference value.
FORWARD, LOOP = 1e-5, 1e-4
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
Error = Callable[[np.ndarray, np.ndarray], float]
PROMPTS = ["a cat", "a very long prompt about two dogs on a beach at night", "low quality"]


@pytest.fixture(scope="module")
def recorded(pipeline_folder: Path) -> LattePipeline:
    pipeline = LattePipeline.from_pretrained(pipeline_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def call(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The recorded call."""
    return {
        "prompt": "a cat wearing sunglasses and working as a lifeguard at pool",
        "negative_prompt": "low quality blurry",
        "guidance_scale": 5.0,
        "num_inference_steps": 6,
        "height": 64,
        "width": 64,
        "latents": arrays["latents"],
        "clean_caption": False,
    }


def test_diffusers_embeddings(
    recorded: LattePipeline, call: dict[str, Any], arrays: dict[str, np.ndarray], error: Error
) -> None:
    result = recorded.encode_prompt(call["prompt"], negative_prompt=call["negative_prompt"])
    for name, tensor in zip(("prompt_embeds", "negative_prompt_embeds"), result, strict=True):
        assert tensor is not None
        assert error(tensor.asnumpy(), arrays[name]) <= FORWARD


@pytest.mark.parametrize(
    "name", ["ddim", "dpm", "euler", "pndm", "heun", "unipc", "deis", "dpm_single"]
)
def test_diffusers_latents(
    recorded: LattePipeline,
    call: dict[str, Any],
    arrays: dict[str, np.ndarray],
    error: Error,
    name: str,
) -> None:
    pipeline = LattePipeline(**recorded.components)
    if name != "ddim":
        betas = {key: recorded.scheduler.config[key] for key in BETAS}
        pipeline.scheduler = schedulers.create(name, betas)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(**call, output_type="latent", like_diffusers=True).frames
    assert error(result.asnumpy(), arrays[f"latent_{name}"]) <= LOOP


def test_diffusers_latents_from_embeddings(
    recorded: LattePipeline, call: dict[str, Any], arrays: dict[str, np.ndarray], error: Error
) -> None:
    for name in ("prompt", "negative_prompt"):
        del call[name]
        call[f"{name}_embeds"] = Tensor(arrays[f"{name}_embeds"])
    result = recorded(**call, output_type="latent").frames
    assert error(result.asnumpy(), arrays["latent_ddim"]) <= LOOP


@pytest.mark.slow
def test_diffusers_frames(
    recorded: LattePipeline, call: dict[str, Any], arrays: dict[str, np.ndarray], error: Error
) -> None:
    shown = arrays["shown"]
    frames = recorded(**call, output_type="pt").frames.asnumpy()
    assert error(frames[:, shown], arrays["frames_ddim"]) <= LOOP
    call |= {"num_inference_steps": 4}
    plain = {"guidance_scale": 1.0, "mask_feature": False}
    frames = recorded(**(call | plain), output_type="np").frames
    assert error(frames[:, shown], arrays["frames_nocfg"]) <= LOOP
    image = {"video_length": 1, "latents": arrays["latents"][:, :, :1]}
    frames = recorded(**(call | image), output_type="ms").frames.asnumpy()
    assert error(frames, arrays["image_t2i"]) <= LOOP


@pytest.mark.slow
def test_diffusers_frames_of_the_temporal_decoder(
    recorded: LattePipeline,
    pipeline_folder: Path,
    call: dict[str, Any],
    arrays: dict[str, np.ndarray],
    error: Error,
) -> None:
    temporal = load_autoencoder(pipeline_folder / "vae_temporal_decoder")
    pipeline = LattePipeline(**(recorded.components | {"vae": temporal}))
    pipeline.set_progress_bar_config(disable=True)
    call |= {"num_inference_steps": 4, "decode_chunk_size": 4}
    frames = pipeline(**call, output_type="ms").frames.asnumpy()
    assert error(frames[:, arrays["shown"]], arrays["frames_temporal_vae"]) <= LOOP


def test_a_video_does_not_depend_on_its_batch(
    small: LattePipeline, options: dict[str, Any], error: Error
) -> None:
    """Prompts of different lengths, noise in every step, two videos per prompt."""
    small.scheduler = schedulers.create("euler_ancestral", small.scheduler.config)
    options |= {"num_images_per_prompt": 2, "prompt": PROMPTS, "generator": [1, 2, 3, 4, 5, 6]}
    together = small(**options).frames.asnumpy()
    options |= {"prompt": PROMPTS[1:2], "generator": [3, 4]}
    alone = small(**options).frames.asnumpy()
    assert error(together[2:4], alone) <= FORWARD


def test_seeds_and_generators(small: LattePipeline, options: dict[str, Any]) -> None:
    """Seeds count up from video to video; a single generator is that of the first video."""
    options |= {"num_inference_steps": 1, "prompt": [PROMPTS[0]] * 3}

    def sample(generator: Any) -> np.ndarray:
        return small(**(options | {"generator": generator})).frames.asnumpy()

    by_seed = sample(7)
    np.testing.assert_array_equal(sample([7, 8, 9]), by_seed)
    generators = [np.random.default_rng(seed) for seed in (7, 8, 9)]
    np.testing.assert_array_equal(sample(generators), by_seed)
    several = sample(np.random.default_rng(7))
    np.testing.assert_array_equal(several[0], by_seed[0])
    assert len({video.tobytes() for video in several}) == 3
    np.testing.assert_array_equal(sample(np.random.default_rng(7)), several)
    unseeded = sample(None)
    assert not np.array_equal(unseeded, sample(None))


def test_noise_is_that_of_the_generator(small: LattePipeline, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(4).standard_normal((1, 4, 4, 2, 2))
    drawn = small(**(options | {"generator": 4})).frames.asnumpy()
    from_latents = small(**(options | {"latents": noise})).frames.asnumpy()
    np.testing.assert_array_equal(from_latents, drawn)


def test_prompts_guidance_and_schedulers_share_one_graph(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    small(**options)
    graph = denoiser_of(small.transformer, guided=True, keep_variance=False, temporal=True)
    before = len(graph.compile_cache)
    for prompt, scale in zip(PROMPTS, (4.0, 7.5, 3), strict=True):
        small(**(options | {"prompt": prompt, "guidance_scale": scale}))
    small.scheduler = schedulers.create("heun", small.scheduler.config)
    small(**options)
    assert len(graph.compile_cache) == before


@pytest.mark.parametrize("output_type", ["pil", "np", "ms", "pt"])
def test_output_types(small: LattePipeline, options: dict[str, Any], output_type: str) -> None:
    options |= {"output_type": output_type}
    output = small(**options)
    frames = output.frames
    if output_type == "pil":
        assert [len(video) for video in frames] == [4]
        assert isinstance(frames[0][0], Image.Image)
        assert frames[0][0].size == (16, 16)
        return
    assert isinstance(frames, np.ndarray if output_type == "np" else Tensor)
    values = frames if output_type == "np" else frames.asnumpy().transpose(0, 1, 3, 4, 2)
    assert values.shape == (1, 4, 16, 16, 3)
    assert values.dtype == np.float32
    assert 0.0 <= values.min() < values.max() <= 1.0
    images = small(**(options | {"output_type": "pil"}))[0][0]
    expected = np.floor(values[0] * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), expected)


def test_the_output_is_a_tuple_with_names(small: LattePipeline, options: dict[str, Any]) -> None:
    output = small(**options)
    assert isinstance(output, LattePipelineOutput)
    assert output[0] is output.frames is output["frames"] is output.to_tuple()[0]
    (frames,) = small(**options, return_dict=False)
    np.testing.assert_array_equal(frames.asnumpy(), output.frames.asnumpy())
    assert output.keys() == ("frames",)


@pytest.mark.slow
def test_sizes_of_the_transformer_are_the_default(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    shape = small(**(options | {"height": None, "width": 0})).frames.shape
    assert shape == (1, 4, 4, 2, 2)
    shape = small(**(options | {"height": 16, "width": 32})).frames.shape
    assert shape == (1, 4, 4, 2, 4), "other sizes than the transformer's"


@pytest.mark.slow
def test_frames_without_temporal_attention(small: LattePipeline, options: dict[str, Any]) -> None:
    """Any number of frames; the first does not depend on the others."""
    noise = np.random.default_rng(0).standard_normal((1, 4, 5, 2, 2))
    options |= {"enable_temporal_attentions": False}
    five = small(**(options | {"video_length": 5, "latents": noise})).frames.asnumpy()
    one = small(**(options | {"video_length": 1, "latents": noise[:, :, :1]})).frames.asnumpy()
    np.testing.assert_allclose(five[:, :, :1], one, rtol=0, atol=FORWARD * np.abs(one).max())


def test_embeddings_are_passed_with_their_mask(
    small: LattePipeline, options: dict[str, Any], error: Error
) -> None:
    options |= {"prompt": PROMPTS, "generator": [1, 2, 3]}
    expected = small(**options).frames.asnumpy()
    encoded = small.prompt_arguments(PROMPTS, options.pop("negative_prompt"), clean_caption=False)
    del options["prompt"]
    assert error(small(**options, **encoded).frames.asnumpy(), expected) <= FORWARD


def test_components_are_shared(small: LattePipeline, options: dict[str, Any]) -> None:
    other = LattePipeline(**small.components)
    for name in ("tokenizer", "text_encoder", "vae", "transformer", "scheduler"):
        assert getattr(other, name) is getattr(small, name)
    assert other.codec is small.codec
    small(**options)
    count = len(small.transformer.shared_objects)
    other.set_progress_bar_config(disable=True)
    other(**options)
    assert len(small.transformer.shared_objects) == count, "nothing is compiled again"


WITHOUT_SETUP = """
import sys
import mindspore as ms
import numpy as np
from latte_ms import LattePipeline
from latte_ms.generation.denoising import denoiser_of

assert ms.get_context("mode") == ms.PYNATIVE_MODE
folder, arrays = sys.argv[1:]
arrays = np.load(arrays)
without = {"text_encoder": None, "tokenizer": None, "vae": None}
pipeline = LattePipeline.from_pretrained(folder, **without)
frames = pipeline(
    prompt_embeds=arrays["prompt_embeds"],
    negative_prompt_embeds=arrays["negative_prompt_embeds"],
    latents=arrays["latents"],
    num_inference_steps=6,
    guidance_scale=5.0,
    height=64,
    width=64,
    output_type="latent",
).frames.asnumpy()
expected = arrays["latent_ddim"]
assert np.abs(frames - expected).max() <= 1e-4 * np.abs(expected).max()
"""


@pytest.mark.slow
def test_steps_are_compiled_without_runtime_setup(pipeline_folder: Path, reference: Path) -> None:
    """MindSpore starts in PyNative mode."""
    arguments = [str(pipeline_folder), str(reference / "t2v" / "pipeline.npz")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WITHOUT_SETUP, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
