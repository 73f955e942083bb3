"""Prompts and embeddings of the user to what the network attends to.

Shapes: P prompts, n videos per prompt, B = P * n videos, L tokens (120 from prompts), W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from latte_ms.generation.denoising import Text
from latte_ms.text import TextEncoder, mask_features
from latte_ms.text.tokenizer import MAX_TOKENS


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of texts, and what of them belongs to the prompts.

    Attributes:
        prompt: (P, L, W) float32.
        negative: the same of the negative prompts, or None without guidance.
        mask: (P, L) int32, 1 on the prompts' tokens, 0 behind them.
    """

    prompt: np.ndarray
    negative: np.ndarray | None
    mask: np.ndarray

    def unmasked(self) -> "Embeddings":
        """All rows for tokens, padding too."""
        return Embeddings(self.prompt, self.negative, np.ones_like(self.mask))

    def repeated(self, count: int) -> "Embeddings":
        """Each row `count` times in a row: (P * count, L, W)."""
        negative = None if self.negative is None else np.repeat(self.negative, count, 0)
        return Embeddings(
            np.repeat(self.prompt, count, 0), negative, np.repeat(self.mask, count, 0)
        )

    def masked(self) -> "Embeddings":
        """Rows behind the end of a prompt zero, for its negative prompt too."""
        prompt, negative, mask = mask_features(self.prompt, self.negative, self.mask, trim=False)
        assert mask is not None
        return Embeddings(prompt, negative, mask)

    def as_diffusers(self, count: int, ordered: bool) -> "Embeddings":
        """`count` videos per prompt as diffusers masks them: no row is hidden from attention.

        One video's rows are cut. Of several, the prompts' rows are zeroed, and negative prompts
        stay whole. diffusers repeats masks in another order than prompts; `ordered` does not.
        """
        several = self.repeated(count)
        masks = several.mask if ordered else np.tile(self.mask, (count, 1))
        prompt, negative, _ = mask_features(several.prompt, several.negative, masks, False)
        return Embeddings(prompt, negative, np.ones(prompt.shape[:2], np.int32))

    def text(self) -> Text:
        """One batch, negative prompts first, of the length of an encoded prompt at least.

        Rows are added, and hidden, to bring all texts to one shape and so to one compiled graph.
        """
        batches = [self.prompt] if self.negative is None else [self.negative, self.prompt]
        added = ((0, 0), (0, max(MAX_TOKENS - self.mask.shape[1], 0)))
        rows = np.pad(np.concatenate(batches), (*added, (0, 0))).astype(np.float32)
        mask = np.pad(np.concatenate([self.mask] * len(batches)), added).astype(np.int32)
        return Text(Tensor(rows), Tensor(mask))


def encode(
    encoder: TextEncoder,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    clean_caption: bool,
) -> Embeddings:
    """Embeddings of prompts and, where there is guidance, of as many negative ones.

    Texts that occur more than once are encoded once.
    """
    texts = list(dict.fromkeys([*prompts, *(negatives or ())]))
    rows, masks = encoder.encode(texts, clean_caption)
    where = {text: row for row, text in enumerate(texts)}
    chosen = [where[text] for text in prompts]
    negative = None
    if negatives is not None and len(set(negatives)) == 1:  # one row in memory for all
        row = rows[where[negatives[0]]]
        negative = np.broadcast_to(row, (len(negatives), *row.shape))
    elif negatives is not None:
        negative = rows[[where[text] for text in negatives]]
    return Embeddings(rows[chosen], negative, masks[chosen])


def negative_rows(
    encoder: TextEncoder, texts: Sequence[str], length: int, clean_caption: bool
) -> np.ndarray:
    """Embeddings of negative prompts beside prompts that came as embeddings of `length` rows.

    Raises ValueError where they do not have so many rows, or more tokens.
    """
    rows, mask = encoder.encode(texts, clean_caption)
    tokens = int(mask.sum(1).max())
    if not tokens <= length <= rows.shape[1]:
        raise ValueError(
            f"`negative_prompt` has {tokens} tokens in {rows.shape[1]} rows, which does not fit "
            f"`prompt_embeds` of {length} rows; give `negative_prompt_embeds`."
        )
    return rows[:, :length]
