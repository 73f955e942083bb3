"""Invalid arguments: an error that names argument, rule and value, before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import schedulers
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig

EMBEDDINGS = np.zeros((1, 5, 32), np.float32)
WITH_EMBEDS = {"prompt": None, "prompt_embeds": EMBEDDINGS, "negative_prompt_embeds": EMBEDDINGS}


@pytest.fixture
def unloaded(small_folder: Path) -> LattePipeline:
    """A pipeline that has loaded no network."""
    return LattePipeline.from_pretrained(small_folder, low_memory=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 24}, r"`height` must be divisible by 16 \(8 pixels per .* 2 latents .*got 24"),
        ({"width": 520}, r"`width` must be divisible by 16 .*, got 520"),
        ({"height": -16}, r"`height` must be an integer of at least 0, got -16"),
        ({"video_length": 3}, r"`video_length` must be 1 or the transformer's 4, got 3"),
        ({"video_length": 0}, r"`video_length` must be an integer of at least 1, got 0"),
        ({"prompt": None}, r"one of `prompt` and `prompt_embeds`, got none"),
        ({"prompt_embeds": EMBEDDINGS}, r"one of `prompt` and `prompt_embeds`, got both"),
        ({"prompt": 3}, r"`prompt` must be a string or a list of strings, got 3"),
        ({"prompt": []}, r"`prompt` must be a string or a list of strings, got \[\]"),
        ({"prompt": ["a", 1]}, r"`prompt` must be a string or a list of strings"),
        (
            {"negative_prompt": None},
            r"`guidance_scale` \(=5\.0\) above 1 needs a `negative_prompt`",
        ),
        ({"negative_prompt": ["a", "b"]}, r"`negative_prompt` must be one string, .*\(1\), got 2"),
        ({"negative_prompt_embeds": EMBEDDINGS}, r"`negative_prompt_embeds` needs"),
        (WITH_EMBEDS, r"one of `negative_prompt` and `negative_prompt_embeds`, got both"),
        (
            WITH_EMBEDS | {"negative_prompt": "", "negative_prompt_embeds": EMBEDDINGS[:, :4]},
            r"`negative_prompt_embeds` must have the shape \(1, 5, 32\), got \(1, 4, 32\)",
        ),
        (
            {"prompt": None, "prompt_embeds": EMBEDDINGS[..., :3]},
            r"`prompt_embeds` must be \(P, L, 32\), got \(1, 5, 3\)",
        ),
        ({"prompt_attention_mask": np.ones((1, 5))}, r"`prompt_attention_mask` needs"),
        (
            WITH_EMBEDS | {"negative_prompt": "", "prompt_attention_mask": np.ones((1, 4))},
            r"`prompt_attention_mask` must have the shape \(1, 5\), got \(1, 4\)",
        ),
        (
            WITH_EMBEDS
            | {"negative_prompt": "", "prompt_attention_mask": np.array([[1, 0, 1, 0, 0]])},
            r"`prompt_attention_mask` must be ones followed by zeros in each row",
        ),
        ({"output_type": "mp4"}, r"`output_type` must be one of \['pil', .*got 'mp4'"),
        ({"num_inference_steps": 0}, r"`num_inference_steps` must be an integer .*got 0"),
        ({"num_inference_steps": 1001}, r"`num_inference_steps` must be from 1 to 1000"),
        ({"num_inference_steps": 2.5}, r"`num_inference_steps` must be an integer .*got 2\.5"),
        ({"num_images_per_prompt": 0}, r"`num_images_per_prompt` must be an integer"),
        ({"decode_chunk_size": 0}, r"`decode_chunk_size` must be an integer"),
        ({"guidance_scale": "7"}, r"`guidance_scale` must be a finite number, got '7'"),
        ({"guidance_scale": float("nan")}, r"`guidance_scale` must be a finite number, got nan"),
        ({"latents": [[1.0]]}, r"`latents` must be a Tensor or an array, got a list"),
        (
            {"prompt": None, "prompt_embeds": [[1.0]]},
            r"`prompt_embeds` must be a Tensor or an array, got a list",
        ),
        (
            WITH_EMBEDS | {"negative_prompt": "", "negative_prompt_embeds": [[1.0]]},
            r"`negative_prompt_embeds` must be a Tensor or an array, got a list",
        ),
        ({"eta": 1.5}, r"`eta` must be from 0 to 1, got 1\.5"),
        (
            {"timesteps": [3, 5]},
            r"`timesteps` must be descending numbers of at least 0, one or more",
        ),
        ({"timesteps": [5, 3]}, r"`timesteps` cannot be chosen with DDIMScheduler"),
        ({"generator": [1, 2]}, r"`generator` must hold one .* per video \(1\), got 2"),
        ({"generator": -1}, r"`generator` must be a seed of at least 0, .*got -1"),
        ({"generator": "seed"}, r"`generator` must be a seed .*got 'seed'"),
        (
            {"latents": np.zeros((1, 4, 4, 2, 3))},
            r"`latents` must have the shape \(1, 4, 4, 2, 2\), got \(1, 4, 4, 2, 3\)",
        ),
        ({"callback_on_step_end": 3}, r"`callback_on_step_end` must be callable, got 3"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents", "noise"]},
            r"must be some of \['latents', .*\], got \['noise'\]",
        ),
    ],
)
def test_bad_arguments(
    unloaded: LattePipeline, options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        unloaded(**(options | arguments))
    assert unloaded._loaded == {}, "no network is loaded"


def test_missing_components(small_folder: Path, options: dict[str, Any]) -> None:
    without = {"text_encoder": None, "vae": None, "low_memory": True}
    pipeline = LattePipeline.from_pretrained(small_folder, **without)
    with pytest.raises(ValueError, match=r"Prompts need a `tokenizer` and .* give `prompt_embeds`"):
        pipeline(**options)
    arguments = options | {"prompt": None, "prompt_embeds": EMBEDDINGS}
    with pytest.raises(ValueError, match=r"give `negative_prompt_embeds`"):
        pipeline(**arguments)
    arguments |= {"negative_prompt": None, "negative_prompt_embeds": EMBEDDINGS}
    with pytest.raises(ValueError, match=r"`output_type` \(='pil'\) needs a `vae`"):
        pipeline(**(arguments | {"output_type": "pil"}))
    with pytest.raises(ValueError, match=r"Prompts need a `tokenizer`"):
        pipeline.encode_prompt("a cat")
    pipeline.check_inputs(**arguments)
    empty = LattePipeline(None, None, None, None, pipeline.scheduler)
    with pytest.raises(ValueError, match=r"`transformer` is None"):
        empty(**options)


def test_encode_prompt_takes_prompts_or_embeddings(small: LattePipeline) -> None:
    with pytest.raises(ValueError, match=r"one of `prompt` and `prompt_embeds`, got both"):
        small.encode_prompt("a cat", prompt_embeds=EMBEDDINGS)
    with pytest.raises(ValueError, match=r"one of `prompt` and `prompt_embeds`, got none"):
        small.encode_prompt(None)
    with pytest.raises(ValueError, match=r"must have the shape \(1, 5, 32\), got \(1, 4, 32\)"):
        small.encode_prompt(
            None, prompt_embeds=EMBEDDINGS, negative_prompt_embeds=EMBEDDINGS[:, :4]
        )


def test_a_variance_that_is_not_predicted(
    small: LattePipeline, small_config: LatteT2VConfig, options: dict[str, Any]
) -> None:
    fields = {name: value for name, value in small_config.to_dict().items() if name[0] != "_"}
    small.transformer = LatteT2V(LatteT2VConfig(**(fields | {"out_channels": 4})))
    small.scheduler = schedulers.create("ddpm", variance_type="learned_range")
    with pytest.raises(ValueError, match=r"`variance_type` 'learned_range', .* of 8, got 4"):
        small(**options)


def test_schedulers_of_other_libraries(small: LattePipeline) -> None:
    with pytest.raises(ValueError, match=r"`scheduler` must be one of .*got builtins\.object"):
        small.scheduler = object()


def test_offloading_says_what_to_do_instead(small: LattePipeline) -> None:
    for offload in (small.enable_model_cpu_offload, small.enable_sequential_cpu_offload):
        with pytest.raises(RuntimeError, match=r"PyNative .* `from_pretrained\(\.\.\., low_memory"):
            offload()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0.0}, r"`strength` must be above 0 and at most 1, got 0\.0"),
        ({"strength": 0.1}, r"`strength` \(=0\.1\) of `num_inference_steps` \(=2\)"),
        ({"video": np.zeros((3, 16, 16, 3), np.uint8)}, r"`video_length` must be 1 or .* got 3"),
        ({"video": np.zeros((4, 16, 24, 3), np.uint8)}, r"`width` must be divisible by 16"),
        ({"video": np.zeros((2, 4, 16, 16, 3), np.uint8)}, r"`video` must be one, .*\(1\), got 2"),
        ({"video": np.full((4, 16, 16, 3), 2.0)}, r"uint8, or numbers in 0\.\.1, got 2\.0 to 2\.0"),
        ({"video": np.zeros((4, 3, 16, 16))}, r"\(V, F, H, W, 3\) .*got \(1, 4, 3, 16, 16\)"),
        ({"video": Tensor(np.zeros((4, 16, 16, 3)))}, r"\(V, F, 3, H, W\) .*got \(1, 4, 16, 16"),
        ({"video": []}, r"`video` must be an array, a Tensor or a list of images, got a list"),
    ],
)
def test_bad_videos(
    unloaded: LattePipeline, options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    for name in ("height", "width", "video_length"):
        del options[name]
    pipeline = LatteVideoToVideoPipeline(**unloaded.components)
    options |= {"video": np.zeros((4, 16, 16, 3), np.uint8), "strength": 1.0}
    pipeline.check_inputs(**options)
    with pytest.raises(ValueError, match=message):
        pipeline(**(options | arguments))
