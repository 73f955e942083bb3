"""Rows behind the end of a prompt, per video and as diffusers treats them."""

import numpy as np
import pytest

from latte_ms.text import mask_features

RNG = np.random.default_rng(0)
ROWS, WIDTH = 6, 3


def batch(*lengths: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (len(lengths), ROWS, WIDTH)
    mask = (np.arange(ROWS) < np.array(lengths)[:, None]).astype(np.int32)
    prompt, negative = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    return prompt, negative, mask


@pytest.mark.parametrize("per_video", [True, False])
def test_a_single_prompt_is_cut_and_the_negative_with_it(per_video: bool) -> None:
    prompt, negative, mask = batch(4)
    p, n, kept = mask_features(prompt, negative, mask, per_video)
    assert np.array_equal(p, prompt[:, :4])
    assert np.array_equal(n, negative[:, :4])
    assert kept is None


def test_per_video_a_batch_is_its_prompts_alone() -> None:
    prompt, negative, mask = batch(2, 5, 3)
    p, n, kept = mask_features(prompt, negative, mask)
    assert p.shape == n.shape == (3, 5, WIDTH)
    assert kept.dtype == np.int32
    assert np.array_equal(kept.sum(1), [2, 5, 3])
    for i, length in enumerate((2, 5, 3)):
        alone, alone_negative, _ = mask_features(*(a[i : i + 1] for a in (prompt, negative, mask)))
        assert np.array_equal(p[i, :length], alone[0])
        assert np.array_equal(n[i, :length], alone_negative[0])
        assert not p[i, length:].any()
        assert not n[i, length:].any()


def test_prompts_of_one_length_need_no_mask() -> None:
    prompt, negative, mask = batch(4, 4)
    p, _, kept = mask_features(prompt, negative, mask)
    assert p.shape == (2, 4, WIDTH)
    assert kept is None


@pytest.mark.parametrize("lengths", [(4,), (2, 5), (4, 4)])
def test_without_trim_all_rows_stay_and_are_masked(lengths: tuple[int, ...]) -> None:
    prompt, negative, mask = batch(*lengths)
    p, n, kept = mask_features(prompt, negative, mask, trim=False)
    assert p.shape == n.shape == prompt.shape
    assert np.array_equal(kept, mask)
    assert np.array_equal(p, prompt * mask[:, :, None])
    assert np.array_equal(n, negative * mask[:, :, None])


def test_of_several_prompts_diffusers_keeps_zeros_and_the_negative_whole() -> None:
    prompt, negative, mask = batch(2, 5)
    p, n, kept = mask_features(prompt, negative, mask, per_video=False)
    assert np.array_equal(p, prompt * mask[:, :, None])
    assert np.array_equal(n, negative)
    assert kept is None


def test_without_guidance_there_is_no_negative() -> None:
    prompt, _, mask = batch(2, 5)
    for per_video in (True, False):
        assert mask_features(prompt, None, mask, per_video)[1] is None


def test_types_are_kept() -> None:
    prompt, negative, mask = batch(2, 5)
    p, n, _ = mask_features(prompt.astype(np.float16), negative.astype(np.float16), mask)
    assert p.dtype == n.dtype == np.float16


@pytest.mark.parametrize("per_video", [True, False])
def test_live_as_diffusers(per_video: bool) -> None:
    torch = pytest.importorskip("torch")
    latte = pytest.importorskip("diffusers.pipelines.latte.pipeline_latte")
    pipeline = object.__new__(latte.LattePipeline)
    for lengths in ((4,), (2, 5)) if not per_video else ((4,), (1,)):
        prompt, negative, mask = batch(*lengths)
        p, n, _ = mask_features(prompt, negative, mask, per_video)
        theirs, rows = pipeline.mask_text_embeddings(
            torch.from_numpy(prompt).unsqueeze(1), torch.from_numpy(mask)
        )
        assert np.array_equal(p, theirs.squeeze(1).numpy())
        assert np.array_equal(n, negative[:, :rows])


def test_bad_input_is_named() -> None:
    prompt, negative, mask = batch(2, 5)
    with pytest.raises(ValueError, match=r"`prompt` must be embeddings .* got \(6, 3\)"):
        mask_features(prompt[0], None, mask)
    with pytest.raises(ValueError, match=r"`negative` must have the shape of `prompt`"):
        mask_features(prompt, negative[:1], mask)
    with pytest.raises(ValueError, match=r"`mask` must be \(B, rows\) = \(2, 6\), got \(2, 5\)"):
        mask_features(prompt, negative, mask[:, :5])
    with pytest.raises(ValueError, match="ones followed by zeros"):
        mask_features(prompt, negative, mask[:, ::-1])
    with pytest.raises(ValueError, match="at least one 1"):
        mask_features(prompt, negative, mask * 0)
