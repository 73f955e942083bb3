"""Captions to prompt embeddings while training runs, each encoded once as far as memory allows."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from latte_ms.data.captions import padded
from latte_ms.text.encoder import PromptEncoder


class EncodedCaptions:
    """The embeddings of `texts`, encoded when a batch needs them.

    Those used last are kept, up to a limit; of each, the rows of its tokens alone. Rows of the
    padding are zero, except those of `unconditional`.

    Args:
        texts: the captions.
        encoder: of prompts.
        clean: clean captions as prompts are cleaned in sampling.
        memory_gb: limit of the embeddings that are kept, in 10^9 bytes.
    """

    def __init__(
        self, texts: Sequence[str], encoder: PromptEncoder, clean: bool, memory_gb: float
    ) -> None:
        self.texts, self.encoder, self.clean = texts, encoder, clean
        self._limit, self._used = memory_gb * 1e9, 0
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()  # by number, (tokens, E)
        self._unconditional: np.ndarray | None = None

    @property
    def unconditional(self) -> np.ndarray:
        """See `CaptionEmbeddings`."""
        if self._unconditional is None:
            self._unconditional = self.encoder.encode([""], self.clean)[0][0]
        return self._unconditional

    def __call__(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `CaptionEmbeddings`."""
        found = self._encoded(dict.fromkeys(numbers.ravel().tolist()))
        rows = (found[int(number)] for number in numbers.flat)
        return padded(rows, numbers.shape, *self.unconditional.shape)

    def _encoded(self, numbers: dict[int, None]) -> dict[int, np.ndarray]:
        """The tokens' rows of these captions; the missing ones are encoded in one call."""
        found = {number: self._kept[number] for number in numbers if number in self._kept}
        missing = [number for number in numbers if number not in found]
        if missing:
            rows, mask = self.encoder.encode([self.texts[n] for n in missing], self.clean)
            for number, row, length in zip(missing, rows, mask.sum(1), strict=True):
                found[number] = row[:length].copy()
        for number in numbers:
            self._keep(number, found[number])
        return found

    def _keep(self, number: int, rows: np.ndarray) -> None:
        """Make this the last used one, and forget the first ones beyond the limit."""
        if number not in self._kept:
            self._used += rows.nbytes
        self._kept[number] = rows
        self._kept.move_to_end(number)
        while self._used > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._used -= oldest.nbytes
