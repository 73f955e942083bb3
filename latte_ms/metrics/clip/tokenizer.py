"""CLIP's tokenizer, from `tokenizer.json` or from `vocab.json` and `merges.txt`.

The package tokenizers works on either; transformers' `CLIPTokenizerFast` gives the same ids.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.config import read_json
from latte_ms.extras import needs
from latte_ms.messages import one_line, shown

logger = logging.getLogger(__name__)

FAST, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_WORD_END = "</w>"  # of the last piece of a word
START, END = "<|startoftext|>", "<|endoftext|>"
_MAX_FILE_BYTES = 1 << 26  # bytes; OpenAI's own files have 2.2 million at most
# Contractions, words, single digits, and runs of anything else.
_PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


class CLIPTokenizer:
    """Texts to ids.

    Args:
        folder: has the files, as transformers saves them.
        length: ids of a text, with padding.
        vocab_size: of the network.
    Raises:
        FileNotFoundError: the files are missing.
        ValueError: a file is damaged, or holds ids that the network does not have.
    """

    def __init__(self, folder: str | Path, length: int, vocab_size: int) -> None:
        self._length = length
        self._library = _library(Path(folder))
        self._library.no_padding()
        self._library.no_truncation()
        self.start, self.end = (self._library.token_to_id(token) for token in (START, END))
        if self.start is None or self.end is None:
            raise ValueError(f"{folder} must hold a tokenizer with the tokens {START} and {END}.")
        if self._library.get_vocab_size() > vocab_size:
            raise ValueError(
                f"{folder} must hold a tokenizer of at most {vocab_size} tokens, as the network, "
                f"got {self._library.get_vocab_size()}."
            )

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N, L) int32, and (N, L) float32 with 1 on the first end token and 0 elsewhere.

        A long text is truncated, and a warning shows the lost part.
        """
        ids = np.full((len(texts), self._length), self.end, np.int32)
        last = np.zeros(ids.shape, np.float32)
        for row, text in enumerate(texts):
            found = self._library.encode(text, add_special_tokens=False).ids
            kept = found[: self._length - 2]
            if len(kept) < len(found):
                lost = self._library.decode(found[len(kept) :])
                logger.warning(
                    "A text has %d tokens and CLIP reads %d; the rest is ignored: %s",
                    len(found),
                    len(kept),
                    shown(lost.replace(_WORD_END, " ").strip()),
                )
            whole = [self.start, *kept, self.end]
            ids[row, : len(whole)] = whole
            last[row, whole.index(self.end)] = 1.0
        return ids, last


def _library(folder: Path) -> Any:
    """A `tokenizers.Tokenizer` of a folder."""
    with needs("metrics", "CLIP's tokenizer"):
        from tokenizers import Tokenizer  # type: ignore[import-untyped]

    if (folder / FAST).is_file():
        return _read(folder / FAST, Tokenizer.from_str)
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        vocabulary = read_json(folder / VOCABULARY)
        return _read(folder / MERGES, lambda text: _byte_pairs(vocabulary, text))
    raise FileNotFoundError(
        f"`clip_model` must be a folder with {FAST}, or with {VOCABULARY} and {MERGES}, "
        f"got {folder}."
    )


def _read(path: Path, build: Callable[[str], Any]) -> Any:
    """What `build` makes of a file's text. Raises ValueError that names the file."""
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_FILE_BYTES} bytes, got {size}.")
    try:
        return build(path.read_text(encoding="utf-8"))
    except BaseException as error:  # the library's panics are not Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise ValueError(
            f"{path} must be a file of CLIP's tokenizer ({one_line(error)})."
        ) from None


def _byte_pairs(vocabulary: dict[str, Any], merges: str) -> Any:
    """Byte pair encoding of lower-case words, whose last pair has a mark."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    lines = merges.strip().split("\n")
    pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
    model = models.BPE(vocabulary, pairs, end_of_word_suffix=_WORD_END, unk_token=END)
    library = Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    library.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    pieces = pre_tokenizers.Split(Regex(_PIECES), "removed", invert=True)
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([START, END])
    return library
