"""Prompts to the embeddings of the reference pipeline, and input that cannot be encoded."""

import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.text import PromptEmbeddings, PromptEncoder, T5Config, T5Encoder
from latte_ms.weights.pretrained import load_text_encoder

PROMPT = "a cat wearing sunglasses and working as a lifeguard at pool"
NEGATIVE = "low quality blurry"


def test_embeddings_of_the_reference_pipeline(
    text_encoder: PromptEncoder, torch_arrays: dict[str, np.ndarray]
) -> None:
    embeddings, mask = text_encoder.encode([PROMPT, NEGATIVE], clean_caption=False)
    assert embeddings.shape == (2, 120, 32)
    assert embeddings.dtype == np.float32
    assert mask.shape == (2, 120)
    batch = PromptEmbeddings(embeddings[:1], embeddings[1:], mask[:1]).as_diffusers(
        1, align_masks=True
    )
    prompt, negative = batch.prompt, batch.negative
    assert negative is not None
    assert prompt.shape == negative.shape == (1, 24, 32)
    whole = torch_arrays["embeddings"]
    for embedding, expected in ((prompt, whole[2:3, :24]), (negative, whole[1:2, :24])):
        assert np.abs(embedding - expected).max() <= 1e-5 * np.abs(expected).max()


def test_cleaning_changes_the_prompt_only_on_request(text_encoder: PromptEncoder) -> None:
    messy, plain = "A  cat &amp; <b>dog</b> photo.jpg", "a cat dog"
    for clean in (True, False):
        (first, second), _ = text_encoder.encode([messy, plain], clean_caption=clean)
        assert np.array_equal(first, second) == clean


def test_a_prompt_does_not_depend_on_the_others(text_encoder: PromptEncoder) -> None:
    together, mask = text_encoder.encode(["a cat", "very long " * 100, ""])
    for i, prompt in enumerate(["a cat", "very long " * 100, ""]):
        alone, own = text_encoder.encode([prompt])
        assert np.array_equal(together[i : i + 1], alone)
        assert np.array_equal(mask[i : i + 1], own)


def test_bad_prompts_are_named(text_encoder: PromptEncoder) -> None:
    for prompts in ("a cat", ["a cat", 3], [None]):
        with pytest.raises(ValueError, match="`prompts` must be a list of strings"):
            text_encoder.encode(prompts)
    with pytest.raises(ValueError, match="`prompts` must not be empty"):
        text_encoder.encode([])


def test_a_network_of_another_framework_is_named(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"`network` must be a T5Encoder .*, got dict"):
        PromptEncoder(tokenizer, {})


def test_a_tokenizer_of_another_model_is_named(tokenizer: Any, encoder_folder: Path) -> None:
    config = T5Config.from_json(encoder_folder / "config.json")
    small = T5Encoder(dataclasses.replace(config, vocab_size=40), seed=None)
    with pytest.raises(ValueError, match=r"returns the id 8\d, but `vocab_size` .* is 40"):
        PromptEncoder(tokenizer, small).encode([PROMPT])


@pytest.mark.parametrize("streamed", [False, True])
def test_freed_memory_is_free(tokenizer: Any, encoder_folder: Path, streamed: bool) -> None:
    text_encoder = PromptEncoder(tokenizer, load_text_encoder(encoder_folder, streamed=streamed))
    network = weakref.ref(text_encoder._network)
    text_encoder.encode(["a cat"])
    del text_encoder
    gc.collect()
    assert network() is None
