"""Embeddings of prompts, and which of their rows a network attends to.

Shapes: P prompts, n videos per prompt, B = P * n videos, L tokens (120 from prompts), W channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latte_ms.text.encoder import TextEncoder
from latte_ms.text.tokenizer import MAX_TOKENS


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embeddings of prompts and of negative prompts, with the mask of the prompts' tokens.

    Attributes:
        prompt: (P, L, W) float32.
        negative: the same of the negative prompts, or None without guidance.
        mask: (P, L) int32, 1 on the prompts' tokens, 0 on the padding behind them.
    """

    prompt: np.ndarray
    negative: np.ndarray | None
    mask: np.ndarray

    def row(self, index: int) -> "PromptEmbeddings":
        """Those of one prompt."""
        part = slice(index, index + 1)
        negative = None if self.negative is None else self.negative[part]
        return PromptEmbeddings(self.prompt[part], negative, self.mask[part])

    def unmasked(self) -> "PromptEmbeddings":
        """With all rows attended to, the padding included."""
        return PromptEmbeddings(self.prompt, self.negative, np.ones_like(self.mask))

    def repeated(self, count: int) -> "PromptEmbeddings":
        """Each row `count` times in a row: (P * count, L, W)."""
        negative = None if self.negative is None else np.repeat(self.negative, count, 0)
        return PromptEmbeddings(
            np.repeat(self.prompt, count, 0), negative, np.repeat(self.mask, count, 0)
        )

    def masked(self) -> "PromptEmbeddings":
        """With zeros behind the end of each prompt, in its negative prompt too."""
        tokens = self.mask[:, :, None].astype(self.prompt.dtype)
        negative = None if self.negative is None else self.negative * tokens
        return PromptEmbeddings(self.prompt * tokens, negative, self.mask)

    def as_diffusers(self, count: int, ordered: bool) -> "PromptEmbeddings":
        """`count` videos per prompt as diffusers masks them: attention sees every row.

        A single video's rows are cut after the prompt's last token. Of several, the prompts'
        padding is zeroed and attended to, and negative prompts keep all rows: a prompt then gives
        another video in a batch than alone. diffusers repeats masks in another order than prompts;
        `ordered` does not.
        """
        several = self.repeated(count)
        masks = several.mask if ordered else np.tile(self.mask, (count, 1))
        if len(several.prompt) > 1:
            prompt = several.prompt * masks[:, :, None].astype(several.prompt.dtype)
            return PromptEmbeddings(prompt, several.negative, np.ones_like(masks))
        length = int(masks.sum())
        negative = None if several.negative is None else several.negative[:, :length]
        return PromptEmbeddings(several.prompt[:, :length], negative, masks[:, :length])

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """One batch, negative prompts first: embeddings (B or 2B, L', W) and mask (B or 2B, L').

        L' is at least the length of an encoded prompt. Rows are added, and masked, to bring all
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


def encode(
    encoder: TextEncoder,
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
    encoder: TextEncoder, prompts: Sequence[str], length: int, clean_caption: bool
) -> np.ndarray:
    """Embeddings of negative prompts for prompt embeddings of `length` rows.

    Raises ValueError where the negative prompts have more tokens, or fewer rows.
    """
    rows, mask = encoder.encode(prompts, clean_caption)
    tokens = int(mask.sum(1).max())
    if not tokens <= length <= rows.shape[1]:
        raise ValueError(
            f"`negative_prompt` has {tokens} tokens in {rows.shape[1]} rows, which does not fit "
            f"`prompt_embeds` of {length} rows; give `negative_prompt_embeds`."
        )
    return rows[:, :length]
