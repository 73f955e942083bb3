"""Quirks of diffusers' pipeline: what ours does instead, and the option that restores them.

`docs/porting_t2v.md` lists the others, which other tests in this folder cover.
"""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import schedulers
from latte_ms.generation.denoising import denoiser_of
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.text.encoder import PromptEmbeddings
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.configuration import TemporalDecoderConfig
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder

Error = Callable[[np.ndarray, np.ndarray], float]
PROMPTS = ["a cat", "a very long prompt about two dogs on a beach at night"]


@pytest.fixture(scope="module")
def embeddings() -> PromptEmbeddings:
    """Two prompts of 4 and 7 tokens."""
    mask = (np.arange(9) < np.array([[4], [7]])).astype(np.int32)
    rows = np.random.default_rng(0).standard_normal((2, 2, 9, 3)).astype(np.float32)
    return PromptEmbeddings(rows[0], rows[1], mask)


def tokens(result: PromptEmbeddings) -> list[int]:
    """Rows of each prompt that are not zero."""
    return [int((np.abs(rows).sum(-1) > 0).sum()) for rows in result.prompt]


def test_masks_are_repeated_as_prompts_are(embeddings: PromptEmbeddings) -> None:
    assert tokens(embeddings.as_diffusers(2, align_masks=False)) == [4, 7, 4, 7], "diffusers"
    assert tokens(embeddings.as_diffusers(2, align_masks=True)) == [4, 4, 7, 7]
    result = embeddings.repeated(2).with_padding_zeroed()
    assert tokens(result) == [4, 4, 7, 7]
    assert result.mask.sum(1).tolist() == [4, 4, 7, 7]


def test_padding_is_hidden_and_not_zeroed(embeddings: PromptEmbeddings) -> None:
    """With several prompts diffusers attends to zero rows, and to all rows of negative prompts."""
    theirs = embeddings.as_diffusers(1, align_masks=True)
    assert theirs.mask.all()
    assert theirs.negative is not None
    np.testing.assert_array_equal(theirs.negative, embeddings.negative)
    ours = embeddings.with_padding_zeroed()
    np.testing.assert_array_equal(ours.mask, embeddings.mask)
    assert ours.negative is not None
    assert not (ours.negative * (1 - ours.mask)[..., None]).any()


def test_a_single_video_agrees_with_diffusers(embeddings: PromptEmbeddings) -> None:
    """Rows after the end are removed in theirs and masked in ours."""
    first = PromptEmbeddings(embeddings.prompt[:1], embeddings.prompt[1:], embeddings.mask[:1])
    theirs, ours = first.as_diffusers(1, align_masks=False), first.with_padding_zeroed()
    assert theirs.prompt.shape == (1, 4, 3)
    np.testing.assert_array_equal(theirs.prompt, ours.prompt[:, :4])
    np.testing.assert_array_equal(theirs.padded_batch()[1], ours.padded_batch()[1])
    np.testing.assert_array_equal(theirs.padded_batch()[0], ours.padded_batch()[0])


@pytest.mark.slow
def test_a_batch_is_its_videos(small: LattePipeline, options: dict[str, Any], error: Error) -> None:
    options |= {"prompt": PROMPTS, "generator": [1, 2]}
    ours = small(**options).frames.asnumpy()
    theirs = small(**options, like_diffusers=True).frames.asnumpy()
    alone = small(**(options | {"prompt": PROMPTS[0], "generator": [1]})).frames.asnumpy()
    quirk = small(
        **(options | {"prompt": PROMPTS[0], "generator": [1]}), like_diffusers=True
    ).frames.asnumpy()
    assert error(ours[:1], alone) < 1e-5
    assert error(theirs[:1], alone) > 1e-3
    assert error(quirk, alone) < 1e-5, "the option changes nothing for a single video"


@pytest.fixture
def temporal(small: LattePipeline) -> LattePipeline:
    """With a decoder in which a frame depends on its neighbours."""
    config = TemporalDecoderConfig(block_out_channels=(32, 32, 32, 32), layers_per_block=1)
    small.vae = AutoencoderKLTemporalDecoder(config, seed=0)
    return small


@pytest.mark.slow
def test_videos_are_decoded_apart(
    temporal: LattePipeline,
    options: dict[str, Any],
    error: Error,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of 3 frames: 3 + 1 of each video instead of 3 + 3 + 2 of both."""
    options |= {"prompt": PROMPTS, "generator": [1, 2], "decode_chunk_size": 3}
    latents = temporal(**options).frames
    pixels = {}
    for like_diffusers in (False, True):
        frames = latents.asnumpy().transpose(0, 2, 1, 3, 4)
        pixels[like_diffusers] = temporal.codec.decode(frames, 3, mix_videos=like_diffusers)
        alone = temporal.codec.decode(frames[1:], 3)
    assert error(pixels[False][1:], alone) < 1e-5
    assert error(pixels[True][1:], alone) > 1e-3
    options |= {"output_type": "np", "num_inference_steps": 1}
    decode, mixed = temporal.codec.decode, []

    def record(*arguments: Any, mix_videos: bool) -> np.ndarray:
        mixed.append(mix_videos)
        return decode(*arguments, mix_videos=mix_videos)

    monkeypatch.setattr(temporal.codec, "decode", record)
    temporal(**options, like_diffusers=True)
    temporal(**options)
    assert mixed == [True, False]


def test_embeddings_of_the_prompt_alone(
    small: LattePipeline, options: dict[str, Any], error: Error
) -> None:
    """diffusers computes a mask of the wrong shape, and needs the negative embeddings too."""
    encoded = small.prompt_arguments(
        options["prompt"], options["negative_prompt"], clean_caption=False
    )
    arguments = {"prompt": None, "prompt_embeds": encoded["prompt_embeds"]}
    result = small(**(options | arguments)).frames.asnumpy()
    expected = small(**(options | {"mask_feature": False})).frames.asnumpy()
    assert error(result, expected) < 1e-5
    arguments["prompt_embeds"] = encoded["prompt_embeds"][:, :2]
    with pytest.raises(ValueError, match=r"`negative_prompt` has \d+ tokens .*2 rows; give `neg"):
        small(**(options | arguments))


def test_embeddings_beside_the_default_negative_prompt(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    """diffusers takes the default "" for a negative prompt given twice."""
    prompt, negative = small.encode_prompt("a cat", negative_prompt="blue")
    del options["negative_prompt"]
    options |= {"prompt": None, "prompt_embeds": prompt, "negative_prompt_embeds": negative}
    assert small(**options).frames.shape == (1, 4, 4, 2, 2)


def test_a_mask_of_embeddings_follows_mask_feature(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    encoded = small.prompt_arguments("a cat", "blue", clean_caption=False)
    assert encoded["prompt_attention_mask"].min() == 0
    options |= encoded | {"prompt": None}
    masked = small(**options).frames.asnumpy()
    whole = small(**options, mask_feature=False).frames.asnumpy()
    assert np.abs(whole - masked).max() > 1e-4
    del options["prompt_attention_mask"]
    np.testing.assert_array_equal(small(**options).frames.asnumpy(), whole)


def test_encode_prompt_takes_embeddings(small: LattePipeline) -> None:
    """They are repeated for each video; a negative prompt may be text or embeddings."""
    prompt, negative = small.encode_prompt("a cat", negative_prompt="blue", mask_feature=False)
    assert negative is not None
    rows = {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    again, negatives = small.encode_prompt(None, num_images_per_prompt=2, **rows)
    np.testing.assert_array_equal(again.asnumpy(), np.repeat(prompt.asnumpy(), 2, 0))
    np.testing.assert_array_equal(negatives.asnumpy(), np.repeat(negative.asnumpy(), 2, 0))
    encoded = small.encode_prompt(None, True, "blue", prompt_embeds=prompt, dtype=ms.float16)
    assert [rows.dtype for rows in encoded] == [ms.float16] * 2
    np.testing.assert_allclose(encoded[1].asnumpy(), negative.asnumpy(), rtol=1e-3, atol=1e-3)
    assert small.encode_prompt(None, False, **rows)[1] is None


def test_a_shared_negative_prompt_is_stored_once(small: LattePipeline) -> None:
    encoded = small.prompt_arguments(["a cat", "a dog"], "blue")
    rows = encoded["negative_prompt_embeds"]
    assert np.shares_memory(rows[0], rows[1])
    np.testing.assert_array_equal(Tensor(rows).asnumpy(), rows)
    apart = small.prompt_arguments(["a cat", "a dog"], ["blue", "red"])["negative_prompt_embeds"]
    np.testing.assert_array_equal(apart[0], rows[0])
    assert np.abs(apart[1] - rows[1]).max() > 1e-3


def test_latents_of_any_dtype(small: LattePipeline, options: dict[str, Any]) -> None:
    """diffusers keeps the dtype of the latents it is given."""
    noise = np.random.default_rng(0).standard_normal((1, 4, 4, 2, 2)).astype(np.float16)
    forms = [noise, noise.astype(np.float64), Tensor(noise), Tensor(noise.astype(np.float32))]
    result = [small(**options, latents=form).frames for form in forms]
    assert {frames.dtype for frames in result} == {ms.float32}
    assert len({frames.asnumpy().tobytes() for frames in result}) == 1


def test_a_variance_type_means_nothing_to_ddim(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    """diffusers passes all eight channels to any scheduler whose settings have the key."""
    plain = small(**options).frames.asnumpy()
    for name in ("ddim", "dpm"):
        settings = {"variance_type": "learned_range"}
        small.scheduler = schedulers.create(name, small.scheduler.config, **settings)
        frames = small(**options).frames.asnumpy()
        assert frames.shape == plain.shape
        if name == "ddim":
            np.testing.assert_array_equal(frames, plain)


def test_learned_variance_is_guided_and_used_by_ddpm(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    config = small.scheduler.config
    frames = []
    for variance in ("fixed_small", "learned_range"):
        small.scheduler = schedulers.create("ddpm", config, variance_type=variance)
        frames.append(small(**options).frames.asnumpy())
        graph = denoiser_of(small.transformer, True, variance == "learned_range", True)
        assert graph.compile_cache
    assert np.abs(frames[0] - frames[1]).max() > 1e-4


def test_a_network_without_variance(
    small: LattePipeline, small_config: LatteT2VConfig, options: dict[str, Any]
) -> None:
    """diffusers would use two of its four channels."""
    fields = {name: value for name, value in small_config.to_dict().items() if name[0] != "_"}
    small.transformer = LatteT2V(LatteT2VConfig(**(fields | {"out_channels": 4})), seed=3)
    assert small(**options).frames.shape == (1, 4, 4, 2, 2)


def test_an_error_leaves_no_state_behind(small: LattePipeline, options: dict[str, Any]) -> None:
    """diffusers clears its state at the end of a call that succeeds."""
    small.scheduler = schedulers.create("heun", small.scheduler.config)
    expected = small(**options).frames.asnumpy()

    def fail(*_: Any) -> dict:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        small(**options, callback_on_step_end=fail)
    assert small.current_timestep is None
    np.testing.assert_array_equal(small(**options).frames.asnumpy(), expected)
