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
    """Prompts to embeddings (B, 120, W).

    Args:
        tokenizer: of transformers; see `load_tokenizer`.
        network: the encoder, whose vocabulary must hold the tokenizer's ids.
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
        """Embeddings (B, 120, W) float32 and mask (B, 120) int32, 1 on tokens and 0 behind them.

        A prompt's embedding does not depend on the others. Longer prompts are cut, with a warning.

        Args:
            clean_caption: clean prompts as training captions were; False lowers and strips them.
        Raises:
            ValueError: prompts are no texts, or hold ids that the network does not know; or the
                network was freed.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"`prompts` must be a list of texts, got {prompts!r}.")
        if not prompts:
            raise ValueError("`prompts` must hold at least one text, got none.")
        if self._network is None:
            raise ValueError("The text encoder was freed; load it again to encode more prompts.")
        texts = [prepare(prompt, clean_caption) for prompt in prompts]
        ids, mask = tokenize(self.tokenizer, texts, MAX_TOKENS)
        if ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"`tokenizer` gives the id {ids.max()}, but `vocab_size` of the text encoder is "
                f"{self.config.vocab_size}: they do not belong together."
            )
        return self._network.embed(ids, mask), mask

    def free(self) -> None:
        """Let the network go, and its memory if nobody else holds it."""
        self._network = None
        gc.collect()
