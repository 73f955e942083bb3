"""Filling a cache of captions: the files that are missing or damaged, one after the other."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from latte_ms.cache.captions import EMPTY, ROWS, CaptionLayout
from latte_ms.cache.encoding import stored
from latte_ms.cache.shards import write_shard
from latte_ms.progress import progress

_TOGETHER = 16  # captions encoded in one call; the others change an embedding by rounding alone


class Encoder(Protocol):
    """`text.PromptEncoder`."""

    def encode(
        self, prompts: Sequence[str], clean_caption: bool = True
    ) -> tuple[np.ndarray, np.ndarray]: ...


class CaptionWriter:
    """Writes files of embeddings; their bytes do not depend on the rank that writes them.

    Args:
        texts: the captions, in the order of their numbers.
        clean: clean captions as prompts are cleaned in sampling.
    """

    def __init__(
        self, layout: CaptionLayout, texts: Sequence[str], encoder: Encoder, clean: bool
    ) -> None:
        self.layout, self.texts, self.encoder, self.clean = layout, texts, encoder, clean

    def write(self, shards: list[int], hide_progress: bool = False) -> int:
        """Write these files, with a progress bar; returns the number of captions in them."""
        total = sum(len(self.layout.captions(shard)) for shard in shards)
        with progress(
            total=total, desc="encoding captions", unit="caption", disable=hide_progress or None
        ) as bar:
            for shard in shards:
                entries = {} if self.layout.captions(shard) else self._empty()
                numbers = self.layout.captions(shard)
                for first in range(0, len(numbers), _TOGETHER):
                    part = numbers[first : first + _TOGETHER]
                    entries |= self._encoded(part)
                    bar.update(len(part))
                write_shard(self.layout.path(shard), self.layout.cache_id, entries, {})
        return total

    def _encoded(self, numbers: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
        """The entries of captions: the rows of their tokens alone."""
        rows, mask = self.encoder.encode([self.texts[number] for number in numbers], self.clean)
        return {
            str(number): {ROWS: self._stored(row[:length], f"caption {number}")}
            for number, row, length in zip(numbers, rows, mask.sum(1), strict=True)
        }

    def _empty(self) -> dict[str, dict[str, np.ndarray]]:
        rows, _ = self.encoder.encode([""], self.clean)
        return {EMPTY: {ROWS: self._stored(rows[0], "the empty prompt")}}

    def _stored(self, rows: np.ndarray, name: str) -> np.ndarray:
        return stored(rows, name, self.layout.dtype)
