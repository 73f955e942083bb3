"""Prompts to embeddings: tokens, the encoder, and the rows that a network attends to.

Shapes: P prompts, n videos per prompt, B = P * n videos, L tokens (120 from prompts), E channels
of the text encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latte_ms.messages import shown
from latte_ms.text.cleaning import normalise_prompt
from latte_ms.text.t5_configuration import T5Config
from latte_ms.text.tokenizer import MAX_TOKENS, Tokenizer, tokenize


class EmbeddingNetwork(Protocol):
    """`T5Encoder` or `StreamedT5Encoder`."""

    config: T5Config

    def embed(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray: ...


class PromptEncoder:
    """Prompts to embeddings (P, 120, E).

    Args:
        tokenizer: of `load_tokenizer`, or a T5 tokenizer of transformers.
        network: the encoder, whose vocabulary must contain the tokenizer's ids.
    """

    def __init__(self, tokenizer: Tokenizer, network: EmbeddingNetwork) -> None:
        if not hasattr(network, "embed"):
            raise ValueError(
                f"`network` must be a T5Encoder or StreamedT5Encoder, got {type(network).__name__}."
            )
        self.tokenizer = tokenizer
        self.config = network.config
        self._network = network

    def encode(
        self, prompts: Sequence[str], clean_caption: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (P, 120, E) float32 and mask (P, 120) int32, 1 on tokens and 0 on padding.

        A prompt's embedding does not depend on the others. Longer prompts are truncated, with a
        warning.

        Args:
            clean_caption: clean prompts like the training captions; False: only lower-case and
                strip them.
        Raises:
            ValueError: prompts are not strings, or have ids outside the vocabulary of the network.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"`prompts` must be a list of strings, got {shown(prompts)}.")
        if not prompts:
            raise ValueError("`prompts` must not be empty.")
        prepared = [normalise_prompt(prompt, clean_caption) for prompt in prompts]
        ids, mask = tokenize(self.tokenizer, prepared, MAX_TOKENS)
        if ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"`tokenizer` returns the id {ids.max()}, but `vocab_size` of the text encoder is "
                f"{self.config.vocab_size}: they do not belong together."
            )
        return self._network.embed(ids, mask), mask


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embeddings of prompts and of negative prompts, with the mask of the prompts' tokens.

    Attributes:
        prompt: (P, L, E) float32.
        negative: the same of the negative prompts, or None without guidance.
        mask: (P, L) int32, 1 on the prompts' tokens, 0 on the padding after them.
    """

    prompt: np.ndarray
    negative: np.ndarray | None
    mask: np.ndarray

    def row(self, index: int) -> "PromptEmbeddings":
        """The embeddings of one prompt."""
        part = slice(index, index + 1)
        negative = None if self.negative is None else self.negative[part]
        return PromptEmbeddings(self.prompt[part], negative, self.mask[part])

    def attending_to_padding(self) -> "PromptEmbeddings":
        """The same, with attention to all rows, the padding included."""
        return PromptEmbeddings(self.prompt, self.negative, np.ones_like(self.mask))

    def repeated(self, count: int) -> "PromptEmbeddings":
        """Each prompt repeated `count` times: (P * count, L, E)."""
        negative = None if self.negative is None else np.repeat(self.negative, count, 0)
        return PromptEmbeddings(
            np.repeat(self.prompt, count, 0), negative, np.repeat(self.mask, count, 0)
        )

    def with_padding_zeroed(self) -> "PromptEmbeddings":
        """The same, with zeros after the last token of each prompt, in its negative prompt too."""
        tokens = self.mask[:, :, None].astype(self.prompt.dtype)
        negative = None if self.negative is None else self.negative * tokens
        return PromptEmbeddings(self.prompt * tokens, negative, self.mask)

    def as_diffusers(self, count: int, align_masks: bool) -> "PromptEmbeddings":
        """`count` videos per prompt as diffusers masks them: attention sees every row.

        A single video's rows are cut after the prompt's last token. Of several, the prompts'
        padding is zeroed and attended to, and negative prompts keep all rows, so a prompt gives a
        different video in a batch than on its own. diffusers repeats masks in a different order
        from prompts; with `align_masks` both have the same order.
        """
        several = self.repeated(count)
        masks = several.mask if align_masks else np.tile(self.mask, (count, 1))
        if len(several.prompt) > 1:
            prompt = several.prompt * masks[:, :, None].astype(several.prompt.dtype)
            return PromptEmbeddings(prompt, several.negative, np.ones_like(masks))
        length = int(masks.sum())
        negative = None if several.negative is None else several.negative[:, :length]
        return PromptEmbeddings(several.prompt[:, :length], negative, masks[:, :length])

    def padded_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """One batch, negative prompts first: embeddings (B or 2B, L', E) and mask (B or 2B, L').

        L' is L, or `MAX_TOKENS` if that is larger. Rows are added, and masked, to bring all
        prompts to one shape and so to one compiled graph.
        """
        halves = [self.prompt] if self.negative is None else [self.negative, self.prompt]
        added = ((0, 0), (0, max(MAX_TOKENS - self.mask.shape[1], 0)))
        rows = np.pad(np.concatenate(halves), (*added, (0, 0))).astype(np.float32)
        return rows, np.pad(np.concatenate([self.mask] * len(halves)), added).astype(np.int32)


def check_mask(name: str, mask: np.ndarray) -> None:
    """Raise ValueError unless each row of `mask` (P, L) is ones followed by zeros, one at least."""
    lengths = mask.sum(1, keepdims=True)
    if lengths.min() < 1 or not np.array_equal(mask, np.arange(mask.shape[1]) < lengths):
        raise ValueError(f"`{name}` must be ones followed by zeros in each row, one at least.")


def encode_prompts(
    encoder: PromptEncoder,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    clean_caption: bool,
) -> PromptEmbeddings:
    """Embeddings of prompts and, where there is guidance, of as many negative prompts.

    Prompts that occur more than once are encoded once.
    """
    unique = list(dict.fromkeys([*prompts, *(negatives or ())]))
    rows, masks = encoder.encode(unique, clean_caption)
    place = {prompt: row for row, prompt in enumerate(unique)}
    chosen = [place[prompt] for prompt in prompts]
    negative = None
    if negatives is not None and len(set(negatives)) == 1:  # one row in memory for all
        row = rows[place[negatives[0]]]
        negative = np.broadcast_to(row, (len(negatives), *row.shape))
    elif negatives is not None:
        negative = rows[[place[prompt] for prompt in negatives]]
    return PromptEmbeddings(rows[chosen], negative, masks[chosen])


def encode_negatives(
    encoder: PromptEncoder, negative_prompts: Sequence[str], length: int, clean_caption: bool
) -> np.ndarray:
    """Embeddings of negative prompts for prompt embeddings of `length` rows.

    Raises ValueError where they do not fit into `length` rows.
    """
    rows, mask = encoder.encode(negative_prompts, clean_caption)
    tokens = int(mask.sum(1).max())
    if not tokens <= length <= rows.shape[1]:
        raise ValueError(
            f"`negative_prompt` has {tokens} tokens in {rows.shape[1]} rows, which does not fit "
            f"`prompt_embeds` of {length} rows; give `negative_prompt_embeds`."
        )
    return rows[:, :length]
