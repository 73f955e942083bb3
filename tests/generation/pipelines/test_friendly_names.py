"""A model's own length, `num_frames`, what only diffusers has, and calls by several threads."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms import config
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.request import TextRequest
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline
from latte_ms.generation.text_recipe import TextToVideoRecipe

RECIPES = Path(__file__).parents[3] / "configs" / "t2v"


def latents(pipeline: LattePipeline, **call: Any) -> np.ndarray:
    return np.asarray(pipeline(**call).frames.asnumpy())


@pytest.mark.slow
def test_the_length_of_the_model_is_the_default(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    own = {name: value for name, value in options.items() if name != "video_length"}
    expected = latents(small, **options)
    assert expected.shape[2] == 4
    for call in (own, own | {"video_length": None}, own | {"num_frames": 4}):
        np.testing.assert_array_equal(latents(small, **call), expected)
    assert latents(small, **own, num_frames=1).shape[2] == 1
    np.testing.assert_array_equal(latents(small, **options, num_frames=4), expected)


def test_two_names_with_two_values(small: LattePipeline, options: dict[str, Any]) -> None:
    message = r"`num_frames` is another name of `video_length`; got 1 and 4"
    with pytest.raises(ValueError, match=message):
        small(**options, num_frames=1)
    with pytest.raises(ValueError, match=r"`video_length` must be an integer of at least 1, got 0"):
        small.check_inputs("a cat", num_frames=0)


def test_recipes_know_both_names(tmp_path: Path) -> None:
    """One replaces the other of a base; both in one file must be equal."""
    cfg = config.load(TextToVideoRecipe, RECIPES / "t2i.yaml", ["num_frames=16"])
    assert cfg.options.video_length == 16
    path = tmp_path / "recipe.yaml"
    path.write_text(f"base: {RECIPES / 't2v.yaml'}\nnum_frames: 8\nvideo_length: 16\n")
    with pytest.raises(ValueError, match=r"`num_frames` is another name of `video_length`"):
        config.load(TextToVideoRecipe, path)
    assert config.load(TextToVideoRecipe, RECIPES / "t2v.yaml").options.video_length is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("enable_cache", "`num_inference_steps`"),
        ("lora_state_dict", "`latte_ms.adapters.read`"),
        ("set_lora_device", "kept on the host"),
        ("to", "`mindspore.set_device`"),
        ("enable_xformers_memory_efficient_attention", "`enable_vae_tiling`"),
        ("enable_attention_slicing", "`enable_vae_slicing`"),
        ("load_ip_adapter", "prompts are text"),
        ("from_pipe", r"`LattePipeline\(\*\*other.components\)`"),
        ("progress_bar", "`set_progress_bar_config`"),
    ],
)
def test_what_diffusers_has_and_this_has_not(small: LattePipeline, name: str, advice: str) -> None:
    assert not hasattr(small, name)
    for pipeline in (small, LatteVideoToVideoPipeline(**small.components)):
        with pytest.raises(AttributeError, match=rf"Pipeline has no `{name}`: .*{advice}"):
            getattr(pipeline, name)
    assert getattr(small, name, None) is None


def test_the_table_names_nothing_that_is_there(small: LattePipeline) -> None:
    from latte_ms.generation.pipelines.absent import DiffusersOnly

    names = [name for name in vars(DiffusersOnly) if not name.startswith("__")]
    assert len(names) > 40
    assert [name for name in names if hasattr(small, name)] == []
    with pytest.raises(AttributeError, match=r"has no attribute 'nonsense'"):
        small.nonsense  # noqa: B018


def test_a_very_long_prompt_is_not_logged_whole(
    small: LattePipeline, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Truncated, with a warning that shows a piece; also where a request of several fails."""
    prompt = "very long " * 20_000
    small(**options | {"prompt": prompt})
    assert "tokens and 120 are read" in caplog.text
    assert max(len(message) for message in caplog.messages) < 400
    caplog.clear()
    bad = TextRequest(prompt=prompt, height=17, output_type="latent")
    failures = list(small.generate_each({prompt: bad}, lambda name, result: None))
    assert "height" in str(failures[0][1])
    assert max(len(message) for message in caplog.messages) < 400


# Threads, and calls within calls.


@pytest.mark.slow
def test_twenty_calls_of_two_threads(small: LattePipeline, options: dict[str, Any]) -> None:
    """Of one pipeline, of which some fail, and a callback that calls it again."""

    def again(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index == 0:
            inner = latents(pipeline, **options | {"generator": 99, "guidance_scale": 1.0})
            assert np.isfinite(inner).all()
            assert pipeline.guidance_scale == 5.0, "that of this call, not of the inner one"
            assert pipeline.current_timestep is not None
        return tensors

    def call(i: int) -> np.ndarray:
        if i % 5 == 4:
            with pytest.raises(ValueError, match=r"`eta` must be from 0 to 1"):
                small(**options | {"eta": 7.0})
        callback = {"callback_on_step_end": again} if i % 3 == 0 else {}
        return latents(small, **options | {"generator": i} | callback)

    expected = [call(i) for i in range(20)]
    results: dict[int, np.ndarray] = {}

    def work(first: int) -> None:
        for i in range(first, 20, 2):
            results[i] = call(i)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(20):
        np.testing.assert_array_equal(results[i], expected[i])


@pytest.mark.slow
def test_pipelines_are_loaded_and_saved_by_two_threads(
    small: LattePipeline, small_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    expected = latents(small, **options)
    results: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        pipeline = LattePipeline.from_pretrained(small_folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(tmp_path / str(i))
        results[i] = latents(pipeline, **options)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        np.testing.assert_array_equal(results[i], expected)
