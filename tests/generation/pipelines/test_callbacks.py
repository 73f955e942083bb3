"""Callbacks, interruption, and guidance that changes during a run."""

from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import schedulers
from latte_ms.generation.pipelines.latte import LattePipeline

ALL = ["latents", "prompt_embeds", "negative_prompt_embeds"]


def test_a_callback_gets_the_tensors_it_asks_for(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    seen = []

    def record(pipeline: LattePipeline, index: int, timestep: Tensor, tensors: dict) -> dict:
        assert pipeline is small
        seen.append((index, int(timestep), {name: t.shape for name, t in tensors.items()}))
        assert pipeline.current_timestep == int(timestep)
        return tensors

    result = small(**options, callback_on_step_end=record, callback_on_step_end_tensor_inputs=ALL)
    shapes = {
        "latents": (1, 4, 4, 2, 2),
        "prompt_embeds": (2, 120, 32),
        "negative_prompt_embeds": (1, 120, 32),
    }
    assert seen == [(0, 500, shapes), (1, 0, shapes)]
    assert small.num_timesteps == 2
    assert small.current_timestep is None
    plain = small(**options).frames.asnumpy()
    np.testing.assert_array_equal(
        result.frames.asnumpy(), plain, "unchanged tensors change nothing"
    )


def test_a_callback_may_ask_for_no_tensors(small: LattePipeline, options: dict[str, Any]) -> None:
    seen: list[dict] = []
    for names in ([], None):
        small(
            **options,
            callback_on_step_end=lambda p, i, t, tensors: seen.append(tensors),
            callback_on_step_end_tensor_inputs=names,
        )
    assert seen == [{}] * 4


def test_a_callback_object_names_its_own_tensors(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    class Callback:
        tensor_inputs = ("prompt_embeds",)

        def __call__(self, pipeline: Any, index: int, timestep: Tensor, tensors: dict) -> dict:
            assert list(tensors) == ["prompt_embeds"]
            return tensors

    small(**options, callback_on_step_end=Callback())
    Callback.tensor_inputs = ("add_text_embeds",)
    with pytest.raises(ValueError, match=r"got \['add_text_embeds'\]"):
        small(**options, callback_on_step_end=Callback())


def test_returned_latents_replace_those_of_the_run(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    def zero(pipeline: Any, index: int, timestep: Tensor, tensors: dict) -> dict:
        return {"latents": np.zeros(tensors["latents"].shape)} if index == 1 else {}

    frames = small(**options, callback_on_step_end=zero).frames.asnumpy()
    assert not frames.any()

    def grow(pipeline: Any, index: int, timestep: Tensor, tensors: dict) -> dict:
        return {"latents": np.zeros((2, 4, 4, 2, 2))}

    with pytest.raises(ValueError, match=r"`latents` must have the shape \(1, 4, 4, 2, 2\), got"):
        small(**options, callback_on_step_end=grow)
    assert small.current_timestep is None, "also after an error"


def test_a_callback_returns_a_mapping(small: LattePipeline, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must return a mapping of tensors or None, got a tuple"):
        small(**options, callback_on_step_end=lambda *arguments: arguments)


def test_inputs_may_be_checked_during_a_run(small: LattePipeline, options: dict[str, Any]) -> None:
    """The check does not change the scheduler of the run."""
    small.scheduler = schedulers.create("euler", small.scheduler.config)
    options |= {"num_inference_steps": 4}
    expected = small(**options).frames.asnumpy()

    def check(pipeline: LattePipeline, *_: Any) -> dict:
        pipeline.check_inputs(**(options | {"num_inference_steps": 2}))
        return {}

    result = small(**options, callback_on_step_end=check).frames.asnumpy()
    np.testing.assert_array_equal(result, expected)


def test_returned_embeddings_replace_those_of_the_run(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    """Prompts may change during a run, from the second step on."""
    other = small.prompt_arguments("a dog", "blue", clean_caption=False, mask_feature=False)
    rows = {
        "prompt_embeds": np.concatenate([other["negative_prompt_embeds"], other["prompt_embeds"]])
    }
    options |= {"mask_feature": False}

    def change(pipeline: Any, index: int, timestep: Tensor, tensors: dict) -> dict:
        return rows

    def write(pipeline: Any, index: int, timestep: Tensor, tensors: dict) -> dict:
        assert set(rows) <= set(tensors)
        tensors.update(rows)
        return tensors

    plain = small(**options).frames.asnumpy()
    together = small(**options, callback_on_step_end=change).frames.asnumpy()
    assert np.abs(together - plain).max() > 1e-3
    shown = {"callback_on_step_end_tensor_inputs": ALL}
    written = small(**options, **shown, callback_on_step_end=write).frames.asnumpy()
    np.testing.assert_array_equal(
        written, together, "written into the mapping that the callback gets"
    )
    rows = {"negative_prompt_embeds": other["negative_prompt_embeds"]}
    negative = small(**options, callback_on_step_end=change).frames.asnumpy()
    assert np.abs(negative - plain).max() > 1e-4
    assert np.abs(negative - together).max() > 1e-4
    written = small(**options, **shown, callback_on_step_end=write).frames.asnumpy()
    np.testing.assert_array_equal(
        written, negative, "written into the mapping that the callback gets"
    )


def test_guidance_follows_the_callback(small: LattePipeline, options: dict[str, Any]) -> None:
    """diffusers uses the scale of the call, whatever a callback sets."""

    def set_scale(scale: float) -> Any:
        def change(pipeline: LattePipeline, index: int, *_: Any) -> dict:
            pipeline._guidance_scale = scale
            return {}

        return change

    plain = small(**options).frames.asnumpy()
    assert small.guidance_scale == 5.0
    changed = small(**options, callback_on_step_end=set_scale(9.0)).frames.asnumpy()
    assert small.guidance_scale == 9.0
    assert small.do_classifier_free_guidance
    assert np.abs(changed - plain).max() > 1e-3
    off, one = (
        small(**options, callback_on_step_end=set_scale(scale)).frames.asnumpy()
        for scale in (0.0, 1.0)
    )
    np.testing.assert_array_equal(
        off, one, "no guidance, rather than the video of the negative prompt"
    )


@pytest.mark.slow
def test_guidance_may_end_during_a_run(small: LattePipeline, options: dict[str, Any]) -> None:
    """As diffusers' own callback ends it: scale 0, and only half of the embeddings returned."""

    def end(pipeline: LattePipeline, index: int, timestep: Tensor, tensors: dict) -> dict:
        if index == 0:
            pipeline._guidance_scale = 0.0
            return {"prompt_embeds": tensors["prompt_embeds"][-1:]}
        return tensors

    def scale_one(pipeline: LattePipeline, *_: Any) -> dict:
        pipeline._guidance_scale = 1.0
        return {}

    names = ["prompt_embeds"]
    ended = small(
        **options, callback_on_step_end=end, callback_on_step_end_tensor_inputs=names
    ).frames.asnumpy()
    expected = small(**options, callback_on_step_end=scale_one).frames.asnumpy()
    np.testing.assert_allclose(ended, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_an_interrupted_run_returns_its_current_latents(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    latents = []

    def stop(pipeline: LattePipeline, index: int, timestep: Tensor, tensors: dict) -> dict:
        latents.append(tensors["latents"].asnumpy())
        pipeline._interrupt = index == 0
        return tensors

    frames = small(**options, callback_on_step_end=stop).frames.asnumpy()
    assert small.interrupt
    assert len(latents) == 1
    np.testing.assert_array_equal(frames, latents[0])
    whole = small(**options).frames.asnumpy()
    assert not small.interrupt, "the next call resets it"
    assert np.abs(whole - frames).max() > 1e-3
