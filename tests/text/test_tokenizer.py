"""Token ids and masks are those of transformers' tokenizers; what is truncated is logged."""

import json
import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.text import load_tokenizer
from latte_ms.text.tokenizer import tokenize

DOG = [5, 22, 9, 49, 44, 31, 47, 33, 48, 1]  # "a dog in space" in tests/reference/tokenizer_json
WORDS = [
    *("a", "dog", "in", "space", "cat", "low", "quality", "</s>", "<unk>", "<pad>", "<extra_id_0>"),
    *("<extra_id_9>", "\u2581", "\u2581dog", "\u00e9", "\ufb01", "\u65e5\u672c", "\U0001f600", "x"),
    *("\uff21", "3.14", " ", "  ", "\t", "\n", "\u00a0"),
]


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
        "slow = {'torch', 'transformers', 'tokenizers', 'sentencepiece', 'mindone'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_tokenizer_json_alone_is_read(reference: Path) -> None:
    tokenizer = load_tokenizer(reference / "tokenizer_json")
    ids, mask = tokenize(tokenizer, ["a dog in space", ""])
    assert ids[0].tolist() == DOG + [0] * 110
    assert mask.sum(1).tolist() == [10, 1]
    assert ids[1, 0] == 1


def test_padding_and_truncation_in_the_file_are_those_of_an_earlier_call(
    reference: Path, tmp_path: Path
) -> None:
    """transformers saves what it called the tokenizer with last."""
    shutil.copytree(reference / "tokenizer_json", tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None}
    values["padding"] = {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    values["truncation"] = truncation
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    assert load_tokenizer(tmp_path)(["a dog in space"])["input_ids"] == [DOG]


def test_a_tokenizer_json_is_truncated_with_an_end(reference: Path) -> None:
    tokenizer = load_tokenizer(reference / "tokenizer_json")
    ids, mask = tokenize(tokenizer, ["a dog in space"], 6)
    assert ids[0].tolist() == [*DOG[:5], 1]
    assert mask.all()
    assert tokenizer.decode(DOG) == "a dog in space"


def test_spiece_model_alone_is_read(reference: Path, tokenizer: Any, tmp_path: Path) -> None:
    shutil.copy(reference / "t2v" / "tokenizer" / "spiece.model", tmp_path)
    prompts = ["a dog in space", "low quality"]
    for mine, whole in zip(
        tokenize(load_tokenizer(tmp_path), prompts), tokenize(tokenizer, prompts), strict=True
    ):
        assert np.array_equal(mine, whole)


def test_every_file_of_a_tokenizer_is_saved_again(reference: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(reference / "t2v" / "tokenizer", both)
    shutil.copy(reference / "tokenizer_json" / "tokenizer.json", both)
    for source in (reference / "tokenizer_json", both):
        load_tokenizer(source).save_pretrained(tmp_path / "saved" / source.name)
        names = {path.name for path in source.iterdir()}
        saved = tmp_path / "saved" / source.name
        assert {path.name for path in saved.iterdir()} == names
        assert all((saved / name).read_bytes() == (source / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("spiece.model", b"", "must be a model of sentencepiece"),
        ("spiece.model", bytes(range(256)) * 40, "must be a model of sentencepiece"),
        ("tokenizer.json", b"", "must be a tokenizer of the package tokenizers"),
        ("tokenizer.json", b"\xff" * 100, "must be a tokenizer of the package tokenizers"),
        ("tokenizer.json", b"[" * 100_000, "must be a tokenizer of the package tokenizers"),
        ("tokenizer.json", b'{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "A"}}',
         "must be a tokenizer of the package tokenizers"),
    ],
)  # fmt: skip
def test_a_damaged_tokenizer_is_named(name: str, content: bytes, rule: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name}: it {rule}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("eos_token", "</end>", "`eos_token` .* must be a token of the vocabulary"),
        ("pad_token", 3, "`pad_token` must be a token, got 3"),
        ("extra_ids", 10**20, "`extra_ids` must be (an integer of at least 0|at most 10000)"),
        ("extra_ids", "x", "`extra_ids` must be (an integer of at least 0|at most 10000)"),
        ("added_tokens_decoder", [], "`added_tokens_decoder` must map ids to tokens"),
        ("added_tokens_decoder", {"x": {"content": "x"}}, "`added_tokens_decoder` must have ids"),
        ("added_tokens_decoder", {"1": {"content": 7}}, "`added_tokens_decoder.1` must be a token"),
    ],
)
def test_a_value_of_the_configuration_is_checked(
    key: str, value: Any, rule: str, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference / "t2v" / "tokenizer", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=rule) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"legacy": False}, {"extra_ids": 10}, None])
def test_ids_are_those_of_transformers(
    changes: dict[str, Any] | None, reference: Path, tmp_path: Path
) -> None:
    """None: of tokenizer.json; otherwise of spiece.model with `changes` of its configuration."""
    transformers = pytest.importorskip("transformers")
    if changes is None:
        folder = reference / "tokenizer_json"
        other = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), eos_token="</s>", pad_token="<pad>"
        )
    else:
        folder = tmp_path
        shutil.copytree(reference / "t2v" / "tokenizer", folder, dirs_exist_ok=True)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text()) | changes
        if "extra_ids" in changes:
            del config["additional_special_tokens"]
        path.write_text(json.dumps(config))
        other = transformers.T5Tokenizer.from_pretrained(str(folder))
    draw, mine = random.Random(0), load_tokenizer(folder)
    for _ in range(500):
        prompt = draw.choice(["", " "]).join(draw.choices(WORDS, k=draw.randrange(12)))
        for length in (8, 120):
            pad = {"padding": "max_length", "max_length": length, "truncation": True}
            theirs = other([prompt], **pad, return_token_type_ids=False)
            assert mine([prompt], **pad) == dict(theirs), prompt
