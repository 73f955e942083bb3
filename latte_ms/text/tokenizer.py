"""Prompts to token ids, by the tokenizer of the reference."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

logger = logging.getLogger(__name__)

MAX_TOKENS = 120  # per prompt, as in the training of Latte
_SENTENCEPIECE, _FAST = "spiece.model", "tokenizer.json"
_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


class Tokenizer(Protocol):
    """The part of transformers' tokenizers that is used here."""

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The T5 tokenizer in `folder`, as transformers saves it.

    transformers is imported here, because that takes a second and only prompts need it. It works
    without torch.

    Raises FileNotFoundError when the folder has no tokenizer.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in (_SENTENCEPIECE, _FAST)):
        raise FileNotFoundError(
            f"`tokenizer` must be a folder with {_SENTENCEPIECE} or {_FAST}, got {folder}."
        )
    with _without_advice():
        from transformers import T5Tokenizer, T5TokenizerFast
    kind = T5Tokenizer if (folder / _SENTENCEPIECE).is_file() else T5TokenizerFast
    tokenizer: Tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
    return tokenizer


def tokenize(
    tokenizer: Tokenizer, prompts: list[str], max_tokens: int = MAX_TOKENS
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, both (B, max_tokens) int32; the mask is 1 on tokens, 0 on padding.

    A prompt ends with the end token. A long one is truncated, and a warning shows the lost part.
    """
    padded = tokenizer(
        prompts, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="np"
    )
    ids = np.asarray(padded["input_ids"], np.int32)
    mask = np.asarray(padded["attention_mask"], np.int32)
    for row in np.flatnonzero(mask.all(axis=1)):
        whole = tokenizer([prompts[row]], verbose=False)["input_ids"][0]
        if len(whole) > max_tokens:
            logger.warning(
                "A prompt has %d tokens and %d are read; the rest is ignored: %r",
                len(whole),
                max_tokens,
                tokenizer.decode(whole[max_tokens - 1 : -1]),
            )
    return ids, mask


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silences the message of transformers that torch is missing, which tokens do not need."""
    previous = os.environ.get(_ADVICE)
    os.environ[_ADVICE] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[_ADVICE]
        else:
            os.environ[_ADVICE] = previous
