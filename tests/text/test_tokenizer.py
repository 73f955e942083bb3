"""Token ids and masks of transformers' tokenizer; what is truncated is logged."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.text import load_tokenizer
from latte_ms.text.encoder import tokenize


def test_ids_and_masks_are_the_references(
    tokenizer: Any, torch_arrays: dict[str, np.ndarray]
) -> None:
    ids, mask = tokenize(tokenizer, [str(prompt) for prompt in torch_arrays["prompts"]])
    assert ids.dtype == mask.dtype == np.int32
    assert np.array_equal(ids, torch_arrays["ids"])
    assert np.array_equal(mask, torch_arrays["mask"])


def test_lost_text_is_logged(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ids, mask = tokenize(tokenizer, ["a cat", "low quality " * 10 + "zebra"], 12)
    assert ids.shape == mask.shape == (2, 12)
    assert ids[1, -1] == 1  # a long prompt ends too
    (record,) = caplog.records
    whole = tokenizer(["low quality " * 10 + "zebra"])["input_ids"][0]
    message = record.getMessage()
    assert f"{len(whole)} tokens and 12 are read" in message
    assert message.endswith("zebra'")


def test_a_prompt_that_just_fits_loses_nothing(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "low quality blurry"
    count = len(tokenizer([prompt])["input_ids"][0])
    with caplog.at_level(logging.WARNING):
        ids, mask = tokenize(tokenizer, [prompt], count)
    assert not caplog.records
    assert mask.all()
    assert ids[0, -1] == 1


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`tokenizer` must be .* spiece.model"):
        load_tokenizer(tmp_path)


def test_a_saved_tokenizer_is_the_same(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    prompts = ["a cat", "Two   DOGS </s> and a bird", ""]
    for mine, again in zip(
        tokenize(tokenizer, prompts), tokenize(load_tokenizer(tmp_path), prompts), strict=True
    ):
        assert np.array_equal(mine, again)


def test_importing_the_package_imports_no_tokenizer() -> None:
    """It would take a second, and import torch where that is installed."""
    code = (
        "import sys, latte_ms.text, latte_ms.weights.pretrained\n"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'mindone'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
