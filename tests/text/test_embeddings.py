"""Rows after the end of a prompt: masked, or as diffusers treats them."""

import numpy as np
import pytest

from latte_ms.text.encoder import MAX_TOKENS, PromptEmbeddings, check_mask

RNG = np.random.default_rng(0)
ROWS, CHANNELS = 6, 3


def embeddings(*lengths: int, negative: bool = True) -> PromptEmbeddings:
    shape = (len(lengths), ROWS, CHANNELS)
    mask = (np.arange(ROWS) < np.array(lengths)[:, None]).astype(np.int32)
    rows, others = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    return PromptEmbeddings(rows, others if negative else None, mask)


def test_masking_zeroes_the_padding_of_both_prompts() -> None:
    batch = embeddings(2, 5, 3)
    masked = batch.with_padding_zeroed()
    assert masked.negative is not None
    assert batch.negative is not None
    np.testing.assert_array_equal(masked.mask, batch.mask)
    np.testing.assert_array_equal(masked.prompt, batch.prompt * batch.mask[:, :, None])
    np.testing.assert_array_equal(masked.negative, batch.negative * batch.mask[:, :, None])
    for i in range(3):
        alone = batch.row(i).with_padding_zeroed()
        np.testing.assert_array_equal(masked.prompt[i], alone.prompt[0])


def test_videos_of_a_prompt_lie_side_by_side() -> None:
    batch = embeddings(2, 5)
    several = batch.repeated(2)
    np.testing.assert_array_equal(several.prompt, batch.prompt[[0, 0, 1, 1]])
    np.testing.assert_array_equal(several.mask.sum(1), [2, 2, 5, 5])


def test_a_batch_has_the_negative_prompts_first_and_one_length() -> None:
    batch = embeddings(2, 5)
    rows, mask = batch.padded_batch()
    assert rows.shape == (4, MAX_TOKENS, CHANNELS)
    assert (rows.dtype, mask.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(rows[:2, :ROWS], batch.negative)
    np.testing.assert_array_equal(rows[2:, :ROWS], batch.prompt)
    assert not rows[:, ROWS:].any()
    np.testing.assert_array_equal(mask.sum(1), [2, 5, 2, 5])
    plain, mask = embeddings(4, negative=False).padded_batch()
    assert (len(plain), len(mask)) == (1, 1)


def test_without_a_mask_the_padding_is_seen() -> None:
    batch = embeddings(2, 5).attending_to_padding()
    assert batch.mask.all()
    np.testing.assert_array_equal(batch.with_padding_zeroed().prompt, batch.prompt)


def test_of_several_prompts_diffusers_keeps_zeros_and_the_negative_whole() -> None:
    batch = embeddings(2, 5)
    theirs = batch.as_diffusers(1, align_masks=True)
    np.testing.assert_array_equal(theirs.prompt, batch.prompt * batch.mask[:, :, None])
    np.testing.assert_array_equal(theirs.negative, batch.negative)
    assert theirs.mask.all()
    assert embeddings(2, 5, negative=False).as_diffusers(1, align_masks=True).negative is None


@pytest.mark.parametrize("lengths", [(4,), (2, 5)])
def test_live_as_diffusers(lengths: tuple[int, ...]) -> None:
    import torch
    from diffusers.pipelines.latte import pipeline_latte as latte

    pipeline = object.__new__(latte.LattePipeline)
    batch = embeddings(*lengths)
    assert batch.negative is not None
    ours = batch.as_diffusers(1, align_masks=True)
    theirs, rows = pipeline.mask_text_embeddings(
        torch.from_numpy(batch.prompt).unsqueeze(1), torch.from_numpy(batch.mask)
    )
    np.testing.assert_array_equal(ours.prompt, theirs.squeeze(1).numpy())
    np.testing.assert_array_equal(ours.negative, batch.negative[:, :rows])


@pytest.mark.parametrize("mask", [[[0, 0, 0]], [[1, 0, 1]], [[0, 1, 1]]])
def test_a_mask_is_ones_followed_by_zeros(mask: list[list[int]]) -> None:
    check_mask("mask", np.array([[1, 1, 0], [1, 0, 0]]))
    with pytest.raises(ValueError, match="`mask` must be ones followed by zeros"):
        check_mask("mask", np.array(mask))
