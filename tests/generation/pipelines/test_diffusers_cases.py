"""diffusers' own test cases for Latte's pipeline, with their bounds, on a real tiny pipeline.

`docs/porting_t2v.md` names each case and the ones that cannot apply. Names are diffusers'.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.weights.pretrained import load_autoencoder

REQUIRED = {
    "prompt",
    "height",
    "width",
    "guidance_scale",
    "negative_prompt",
    "prompt_embeds",
    "negative_prompt_embeds",
}
DEFAULTS = {
    "prompt": None,
    "negative_prompt": "",
    "num_inference_steps": 50,
    "timesteps": None,
    "guidance_scale": 7.5,
    "num_images_per_prompt": 1,
    "video_length": None,  # the transformer's own number, 16 for Latte-1
    "height": 512,
    "width": 512,
    "eta": 0.0,
    "generator": None,
    "latents": None,
    "prompt_embeds": None,
    "negative_prompt_embeds": None,
    "output_type": "pil",
    "return_dict": True,
    "callback_on_step_end": None,
    "callback_on_step_end_tensor_inputs": ["latents"],
    "clean_caption": True,
    "mask_feature": True,
    "enable_temporal_attentions": True,
    "decode_chunk_size": 14,
}


@pytest.fixture
def inputs() -> dict[str, Any]:
    """The dummy inputs of diffusers' tests, 16 pixels for their 8."""
    return {
        "prompt": "A painting of a squirrel eating a burger",
        "negative_prompt": "low quality",
        "generator": 0,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "height": 16,
        "width": 16,
        "video_length": 1,
        "output_type": "pt",
        "clean_caption": False,
    }


def run(pipeline: LattePipeline, inputs: dict[str, Any], **changes: Any) -> np.ndarray:
    frames = pipeline(**(inputs | changes)).frames
    return frames if isinstance(frames, np.ndarray) else frames.asnumpy()


def test_inference(small: LattePipeline, inputs: dict[str, Any]) -> None:
    frames = run(small, inputs)
    assert frames[0].shape == (1, 3, 16, 16)
    assert 0.0 <= frames.min() <= frames.max() <= 1.0


def test_callback_inputs(small: LattePipeline, inputs: dict[str, Any]) -> None:
    names = inspect.signature(small.__call__).parameters
    assert {"callback_on_step_end_tensor_inputs", "callback_on_step_end"} <= set(names)
    allowed = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def some(pipeline: Any, index: int, timestep: Any, tensors: dict) -> dict:
        assert set(tensors) <= set(allowed)
        return tensors

    def every(pipeline: Any, index: int, timestep: Any, tensors: dict) -> dict:
        assert set(tensors) == set(allowed)
        return tensors

    def zero(pipeline: Any, index: int, timestep: Any, tensors: dict) -> dict:
        if index == pipeline.num_timesteps - 1:
            tensors["latents"] = ms.ops.zeros_like(tensors["latents"])
        return tensors

    run(small, inputs, callback_on_step_end=some, callback_on_step_end_tensor_inputs=["latents"])
    run(small, inputs, callback_on_step_end=every, callback_on_step_end_tensor_inputs=allowed)
    result = run(small, inputs, callback_on_step_end=zero, output_type="latent")
    assert np.abs(result).sum() == 0.0


@pytest.mark.slow
def test_inference_batch_single_identical(small: LattePipeline, inputs: dict[str, Any]) -> None:
    """Row 0 of a batch of 3 to 1e-3; prompts differ in length here, and diffusers' own fails."""
    prompts = [inputs["prompt"], "a", "one two three four five six"]
    batch = run(small, inputs, prompt=prompts, generator=[0, 1, 2])
    single = run(small, inputs)
    assert np.abs(batch[0] - single[0]).max() < 1e-3


@pytest.mark.slow
def test_save_load_optional_components(
    small: LattePipeline, inputs: dict[str, Any], tmp_path: Path
) -> None:
    """diffusers' bound is 1.0; both load the same weights, so nothing may change."""
    embeddings = small.encode_prompt(inputs["prompt"], negative_prompt=inputs["negative_prompt"])
    arguments = inputs | {"prompt": None, "negative_prompt": None}
    arguments |= dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeddings, strict=True))
    small.tokenizer = small.text_encoder = None
    expected = run(small, arguments)
    small.save_pretrained(tmp_path)
    loaded = LattePipeline.from_pretrained(tmp_path)
    assert loaded.tokenizer is None
    assert loaded.text_encoder is None
    assert np.abs(run(loaded, arguments) - expected).max() < 1e-4


@pytest.mark.slow
def test_save_load_local(small: LattePipeline, inputs: dict[str, Any], small_folder: Path) -> None:
    loaded = LattePipeline.from_pretrained(small_folder)
    assert np.abs(run(loaded, inputs) - run(small, inputs)).max() < 5e-4


def test_pipeline_call_signature(small: LattePipeline) -> None:
    parameters = inspect.signature(small.__call__).parameters
    assert set(parameters) >= REQUIRED
    defaults = {name: parameters[name].default for name in DEFAULTS}
    defaults["callback_on_step_end_tensor_inputs"] = list(
        defaults["callback_on_step_end_tensor_inputs"]
    )
    assert defaults == DEFAULTS
    assert list(parameters)[: len(DEFAULTS)] == list(DEFAULTS), (
        "their order, for positional arguments"
    )


@pytest.mark.slow
def test_inference_batch_consistent(small: LattePipeline, inputs: dict[str, Any]) -> None:
    """Prompts of different lengths, the last one truncated."""
    prompt = inputs["prompt"]
    prompts = [prompt, prompt[: len(prompt) // 2], 100 * "very long"]
    result = run(small, inputs, prompt=prompts, generator=[0, 1, 2])
    assert len(result) == len(prompts)


def test_dict_tuple_outputs_equivalent(small: LattePipeline, inputs: dict[str, Any]) -> None:
    (frames,) = small(**inputs, return_dict=False)
    assert np.abs(frames.asnumpy() - run(small, inputs)).max() < 1e-4


def test_components_function(small: LattePipeline) -> None:
    parameters = set(inspect.signature(LattePipeline.__init__).parameters) - {"self"}
    assert set(small.components) == parameters


@pytest.mark.slow
def test_float16_inference(
    small: LattePipeline, inputs: dict[str, Any], small_folder: Path
) -> None:
    """Cosine distance below 5e-2."""
    half = LattePipeline.from_pretrained(small_folder, mindspore_dtype=ms.float16)
    first, second = (run(p, inputs).ravel().astype(np.float64) for p in (small, half))
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert 1 - cosine < 5e-2


@pytest.mark.slow
def test_save_load_float16(inputs: dict[str, Any], small_folder: Path, tmp_path: Path) -> None:
    half = LattePipeline.from_pretrained(small_folder, mindspore_dtype=ms.float16)
    half.save_pretrained(tmp_path)
    loaded = LattePipeline.from_pretrained(tmp_path, mindspore_dtype=ms.float16)
    for network in (loaded.transformer, loaded.vae):
        assert {str(p.dtype) for p in network.get_parameters()} == {"Float16"}
    assert np.abs(run(half, inputs) - run(loaded, inputs)).max() < 1e-2


@pytest.mark.slow
def test_num_images_per_prompt(small: LattePipeline, inputs: dict[str, Any]) -> None:
    for batch in (1, 2):
        for count in (1, 2):
            prompts = batch * [inputs["prompt"]]
            result = run(small, inputs, prompt=prompts, num_images_per_prompt=count)
            assert result.shape[0] == batch * count


def test_cfg(small: LattePipeline, inputs: dict[str, Any]) -> None:
    plain, guided = (run(small, inputs, guidance_scale=scale) for scale in (1.0, 7.5))
    assert plain.shape == guided.shape
    assert np.abs(plain - guided).max() > 0


def test_callback_cfg(small: LattePipeline, inputs: dict[str, Any]) -> None:
    def increase(pipeline: LattePipeline, index: int, timestep: Any, tensors: dict) -> dict:
        pipeline._guidance_scale += 1.0
        return tensors

    run(small, inputs, guidance_scale=2.0, callback_on_step_end=increase)
    assert small.guidance_scale == 2.0 + small.num_timesteps


def test_serialization_with_variants(small: LattePipeline, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path, variant="fp16")
    index = json.loads((tmp_path / "model_index.json").read_text())
    folders = [name for name, value in index.items() if isinstance(value, list) and value[0]]
    for name in set(folders) - {"tokenizer", "scheduler"}:
        files = [file.name for file in (tmp_path / name).glob("*.safetensors")]
        assert files
        assert all(".fp16." in file for file in files)


def test_loading_with_variants(small: LattePipeline, tmp_path: Path, small_folder: Path) -> None:
    small.save_pretrained(tmp_path, variant="fp16")
    loaded = LattePipeline.from_pretrained(tmp_path, variant="fp16")
    for name in ("text_encoder", "vae", "transformer"):
        before, after = (getattr(pipe, name).parameters_dict() for pipe in (small, loaded))
        assert len(before) == len(after)
        for first, second in zip(before.values(), after.values(), strict=True):
            np.testing.assert_array_equal(first.asnumpy(), second.asnumpy())


def test_loading_with_incorrect_variants_raises_error(small_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"`variant` \(='no'\) is in no component"):
        LattePipeline.from_pretrained(small_folder, variant="no")


def test_dtype_dict(small_folder: Path) -> None:
    dtypes = {"transformer": ms.float16, "default": ms.float32}
    loaded = LattePipeline.from_pretrained(small_folder, mindspore_dtype=dtypes)
    assert {str(p.dtype) for p in loaded.transformer.get_parameters()} == {"Float16"}
    assert {str(p.dtype) for p in loaded.vae.get_parameters()} == {"Float32"}
    assert {str(p.dtype) for p in loaded.text_encoder.get_parameters()} == {"Float32"}


@pytest.mark.slow
def test_video_length_sixteen(pipeline_folder: Path, inputs: dict[str, Any]) -> None:
    """A gap in diffusers' tests, which all have one frame and no temporal position."""
    pipeline = LattePipeline.from_pretrained(pipeline_folder)
    pipeline.vae = load_autoencoder(pipeline_folder / "vae_temporal_decoder")
    result = run(pipeline, inputs, video_length=16, num_inference_steps=1)
    assert result.shape == (1, 16, 3, 16, 16)
    noise = np.random.default_rng(0).standard_normal((1, 4, 16, 2, 2))
    first = {"num_inference_steps": 1, "video_length": 16, "output_type": "latent"}
    plain = run(pipeline, inputs, latents=noise, **first)
    reversed_noise = run(pipeline, inputs, latents=noise[:, :, ::-1].copy(), **first)
    assert np.abs(plain - reversed_noise[:, :, ::-1]).max() > 1e-4, "frames have temporal positions"
