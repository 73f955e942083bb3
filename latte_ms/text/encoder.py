"""Prompts to embeddings: cleaning, tokens and encoder in one object."""

import gc
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from latte_ms.text.cleaning import prepare
from latte_ms.text.t5_configuration import T5Config
from latte_ms.text.tokenizer import MAX_TOKENS, Tokenizer, tokenize


class Network(Protocol):
    """`T5Encoder` or `StreamedT5Encoder`."""

    config: T5Config

    def embed(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray: ...


class TextEncoder:
    """Prompts to embeddings (B, 120, D).

    Args:
        tokenizer: of transformers; see `load_tokenizer`.
        network: the encoder, whose vocabulary must contain the tokenizer's ids.
    """

    def __init__(self, tokenizer: Tokenizer, network: Network) -> None:
        if not hasattr(network, "embed"):
            raise ValueError(
                f"`network` must be a T5Encoder or StreamedT5Encoder, got {type(network).__name__}."
            )
        self.tokenizer = tokenizer
        self.config = network.config
        self._network: Network | None = network

    def encode(
        self, prompts: Sequence[str], clean_caption: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (B, 120, D) float32 and mask (B, 120) int32, 1 on tokens and 0 on padding.

        A prompt's embedding does not depend on the others. Longer prompts are truncated, with a
        warning.

        Args:
            clean_caption: clean prompts like the training captions; False: only lower-case and
                strip them.
        Raises:
            ValueError: prompts are not strings, or have ids outside the vocabulary of the network;
                or the network was freed.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"`prompts` must be a list of strings, got {prompts!r}.")
        if not prompts:
            raise ValueError("`prompts` must not be empty.")
        if self._network is None:
            raise ValueError("The text encoder was freed; load it again to encode more prompts.")
        prepared = [prepare(prompt, clean_caption) for prompt in prompts]
        ids, mask = tokenize(self.tokenizer, prepared, MAX_TOKENS)
        if ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"`tokenizer` returns the id {ids.max()}, but `vocab_size` of the text encoder is "
                f"{self.config.vocab_size}: they do not belong together."
            )
        return self._network.embed(ids, mask), mask

    def free(self) -> None:
        """Release the network, and its memory if nothing else refers to it."""
        self._network = None
        gc.collect()
