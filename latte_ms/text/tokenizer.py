"""T5's tokenizer, from the files that transformers and diffusers save.

A folder has `spiece.model`, which sentencepiece reads, or `tokenizer.json`, which the package
tokenizers reads, or both. transformers' `T5Tokenizer` works on the first and `T5TokenizerFast` on
the second; the classes here have their names and return their ids. transformers itself is not
imported: it takes a second, and no particular version of it is needed.
"""

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.config import read_json
from latte_ms.extras import needs
from latte_ms.messages import one_line, shown
from latte_ms.options import (
    Rule,
    boolean,
    check_present,
    integers,
    items,
    numbers,
    one_of,
    optional,
)

logger = logging.getLogger(__name__)

MAX_TOKENS = 120  # per prompt, as in the training of Latte
SENTENCEPIECE, FAST, CONFIG = "spiece.model", "tokenizer.json", "tokenizer_config.json"
_UNUSED = ("special_tokens_map.json", "added_tokens.json")  # kept to be saved again
_KEPT = (SENTENCEPIECE, FAST, CONFIG, *_UNUSED)
_MAX_FILE_BYTES = 1 << 26  # bytes; T5's own files have 0.8 and 2.4 million
_EXTRA_IDS = 100  # default of transformers
_SPACE = "\u2581"  # stands for a space in pieces
# A second normalizer_spec, which a protocol buffer merges into the first: add_dummy_prefix = false.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class Tokenizer(Protocol):
    """What is used of a tokenizer: one of this module, or of transformers."""

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


class _Added(NamedTuple):
    """A token that is recognised in the text before the model sees it."""

    id: int
    strips_left: bool  # removes the spaces before it
    strips_right: bool


class _NoTokenError(ValueError):
    """A configuration names a token that the model does not have."""


class _SavedTokenizer(ABC):
    """A tokenizer and the files that it came from.

    Args:
        files: content by name; `save_pretrained` writes them again.
        config: the content of tokenizer_config.json.
    """

    def __init__(self, files: Mapping[str, bytes], config: Mapping[str, Any]) -> None:
        self._files = dict(files)
        contents = (part for name in sorted(files) for part in (name.encode(), files[name]))
        self.sha256 = hashlib.sha256(b"\0".join(contents)).hexdigest()  # of names and contents
        self.eos_token_id = self._required(config, "eos_token", "</s>")
        self.pad_token_id = self._required(config, "pad_token", "<pad>")

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, without the end token."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids."""

    @abstractmethod
    def token_id(self, token: str) -> int | None:
        """The id of a token; None where there is no such token."""

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of each prompt, as transformers' tokenizers return them.

        Args:
            padding: "max_length" pads to `max_length`, True to the longest prompt.
            truncation: cut prompts to `max_length` tokens, the end token included.
            return_tensors: "np" for int64 arrays; None for lists.
        """
        if return_tensors not in (None, "np"):
            raise ValueError(f"`return_tensors` must be 'np' or None, got {return_tensors!r}.")
        prompts = [text] if isinstance(text, str) else list(text)
        limit = max_length if truncation else None
        rows = [self._with_end(self.encode(prompt), limit) for prompt in prompts]
        masks = [[1] * len(row) for row in rows]
        if padding:
            fixed_length = max_length if padding == "max_length" else None
            length = fixed_length or max(map(len, rows), default=0)
            rows = [row + [self.pad_token_id] * (length - len(row)) for row in rows]
            masks = [mask + [0] * (length - len(mask)) for mask in masks]
        if return_tensors == "np":
            return {"input_ids": np.array(rows, np.int64), "attention_mask": np.array(masks)}
        single = isinstance(text, str)
        return {
            "input_ids": rows[0] if single else rows,
            "attention_mask": masks[0] if single else masks,
        }

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the files that the tokenizer came from."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            with atomic_file(folder / name) as partial:
                partial.write_bytes(content)

    def _with_end(self, ids: list[int], limit: int | None) -> list[int]:
        return (ids if limit is None else ids[: limit - 1]) + [self.eos_token_id]

    def _required(self, config: Mapping[str, Any], key: str, default: str) -> int:
        token = _token(config, key, default)
        index = self.token_id(token)
        if index is None:
            raise _NoTokenError(f"`{key}` (={shown(token)}) must be a token of the vocabulary.")
        return index


class T5Tokenizer(_SavedTokenizer):
    """On `spiece.model`; see `load_tokenizer`."""

    def __init__(self, files: Mapping[str, bytes], config: Mapping[str, Any]) -> None:
        with needs("t2v", "The tokenizer"):
            from sentencepiece import SentencePieceProcessor

        self._legacy = config.get("legacy") is not False  # transformers' name for its old behaviour
        self._prefix = config.get("add_prefix_space") is not False
        self._processor = SentencePieceProcessor()
        changes = b"" if self._legacy else _NO_DUMMY_PREFIX
        try:
            self._processor.LoadFromSerializedProto(files[SENTENCEPIECE] + changes)
        except (RuntimeError, OSError, ValueError) as error:
            raise ValueError(f"it must be a model of sentencepiece ({one_line(error)}).") from None
        super().__init__(files, config)
        self._added = self._added_tokens(config)
        names = sorted(self._added, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, names)) + ")")

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        if not self._legacy:
            text = (_SPACE if self._prefix else "") + text.replace(_SPACE, " ")
        ids: list[int] = []
        parts = self._pattern.split(text)  # tokens at odd places
        for place, part in enumerate(parts):
            if place % 2:
                ids.append(self._added[part].id)
                continue
            if place + 1 < len(parts) and self._added[parts[place + 1]].strips_left:
                part = part.rstrip()
            if place and self._added[parts[place - 1]].strips_right:
                part = part.lstrip()
            if not self._legacy and place == 0 and part == _SPACE and len(parts) > 1:
                continue
            ids += self._pieces(part) if part else []
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        size, names = self._processor.get_piece_size(), {t.id: n for n, t in self._added.items()}
        words: list[str] = []
        run: list[int] = []
        for index in map(int, token_ids):
            if index in names or index >= size:
                words += [self._processor.decode(run), names.get(index, "")]
                run = []
            else:
                run.append(index)
        return " ".join(word for word in [*words, self._processor.decode(run)] if word)

    def token_id(self, token: str) -> int | None:
        index: int = self._processor.piece_to_id(token)
        return index if self._processor.id_to_piece(index) == token else None

    def _with_end(self, ids: list[int], limit: int | None) -> list[int]:
        ids = ids if limit is None else ids[: limit - 1]
        return ids if ids and ids[-1] == self.eos_token_id else super()._with_end(ids, None)

    def _pieces(self, text: str) -> list[int]:
        ids: list[int]
        if self._legacy or not text.startswith((_SPACE, " ")):
            ids = self._processor.encode(text)
            return ids
        # Without a prefix of its own, the model would remove the space.
        unknown = len(self._processor.encode("<unk>"))
        ids = self._processor.encode("<unk>" + text)
        return ids[unknown:]

    def _added_tokens(self, config: Mapping[str, Any]) -> dict[str, _Added]:
        """Tokens by name: those of the configuration, or else the defaults of transformers."""
        extra = config.get("extra_ids", _EXTRA_IDS)
        last = self._processor.get_piece_size() + extra - 1
        added = {f"<extra_id_{i}>": _Added(last - i, True, True) for i in range(extra)}
        for index, token in config.get("added_tokens_decoder", {}).items():
            name = _content(token, "added_tokens_decoder")
            sides = token if isinstance(token, dict) else {}
            strips = sides.get("lstrip") is True, sides.get("rstrip") is True
            added[name] = _Added(int(index), *strips)
        for key, default in (("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")):
            token = _token(config, key, default)
            if token not in added:
                added[token] = _Added(self._required(config, key, default), False, False)
        return added


class T5TokenizerFast(_SavedTokenizer):
    """On `tokenizer.json`; see `load_tokenizer`."""

    def __init__(self, files: Mapping[str, bytes], config: Mapping[str, Any]) -> None:
        with needs("t2v", "The tokenizer"):
            from tokenizers import Tokenizer as Library  # type: ignore[import-untyped]

        try:
            self._library = Library.from_str(files[FAST].decode("utf-8"))
        except BaseException as error:  # the library's panics are not Exceptions
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise ValueError(
                f"it must be a tokenizer of the package tokenizers ({one_line(error)})."
            ) from None
        # A file may hold the padding and the truncation of the last call before it was saved.
        self._library.no_padding()
        self._library.no_truncation()
        super().__init__(files, config)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._library.decode([int(index) for index in token_ids])
        return text

    def token_id(self, token: str) -> int | None:
        index: int | None = self._library.token_to_id(token)
        return index


def _content(token: Any, key: str) -> str:
    """The text of a token in a configuration: a string, or an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str) or not content:
        raise ValueError(f"`{key}` must be a token, got {shown(token)}.")
    return content


def _check_token(name: str, value: Any) -> None:
    """The rule of a token."""
    _content(value, name)


def _token(config: Mapping[str, Any], key: str, default: str) -> str:
    """The text of a token that a configuration may leave out."""
    value = config.get(key)
    return default if value is None else _content(value, key)


def _added_tokens_decoder(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must map ids to tokens, got {shown(value)}.")
    for index, token in value.items():
        if not (index.isdecimal() and index.isascii() and len(index) < 10):
            raise ValueError(f"`{name}` must have ids, got {shown(index)}.")
        _content(token, f"{name}.{index}")
        for side in ("lstrip", "rstrip", "normalized", "single_word", "special"):
            if isinstance(token, dict):
                boolean(f"{name}.{index}.{side}", token.get(side, False))


def _extra_special_tokens(name: str, value: Any) -> None:
    tokens = list(value.values()) if isinstance(value, dict) else value
    optional(items(_check_token, 0, 10_000))(name, tokens)


_CLASSES = ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_RULES: dict[str, Rule] = {
    "eos_token": optional(_check_token),
    "pad_token": optional(_check_token),
    "unk_token": optional(_check_token),
    "extra_ids": integers(0, 10_000),
    "legacy": optional(boolean),
    "add_prefix_space": optional(boolean),
    "clean_up_tokenization_spaces": optional(boolean),
    "model_max_length": optional(numbers(1, 1e300)),  # transformers writes 1e30 for none
    "tokenizer_class": optional(one_of(*_CLASSES)),
    "added_tokens_decoder": _added_tokens_decoder,
    "additional_special_tokens": optional(items(_check_token, 0, 10_000)),
    "extra_special_tokens": _extra_special_tokens,
    "sp_model_kwargs": optional(one_of({})),  # others would change the ids
}


def _read_config(path: Path) -> dict[str, Any]:
    """A tokenizer's configuration, checked; empty where there is none."""
    if not path.is_file():
        return {}
    config = read_json(path)
    try:
        check_present(config, _RULES)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def _content_of(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_FILE_BYTES} bytes, got {size}.")
    return path.read_bytes()


def load_tokenizer(folder: str | Path) -> T5Tokenizer | T5TokenizerFast:
    """The T5 tokenizer in `folder`: of `spiece.model` where there is one, or of `tokenizer.json`.

    Raises:
        FileNotFoundError: the folder has neither.
        ValueError: a file is damaged; the message names it.
    """
    folder = Path(folder)
    names = [name for name in _KEPT if (folder / name).is_file()]
    if not {SENTENCEPIECE, FAST} & set(names):
        raise FileNotFoundError(
            f"`tokenizer` must be a folder with {SENTENCEPIECE} or {FAST}, got {folder}."
        )
    files = {name: _content_of(folder / name) for name in names}
    config = _read_config(folder / CONFIG)
    for name in set(_UNUSED) & set(names):
        read_json(folder / name)
    kind = T5Tokenizer if SENTENCEPIECE in files else T5TokenizerFast
    try:
        return kind(files, config)
    except ValueError as error:
        name = SENTENCEPIECE if SENTENCEPIECE in files else FAST
        if CONFIG in files and isinstance(error, _NoTokenError):
            name = CONFIG
        raise ValueError(f"{folder / name}: {error}") from error


def tokenize(
    tokenizer: Tokenizer, prompts: list[str], max_tokens: int = MAX_TOKENS
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, both (P, max_tokens) int32; the mask is 1 on tokens, 0 on padding.

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
                "A prompt has %d tokens and %d are read; the rest is ignored: %s",
                len(whole),
                max_tokens,
                shown(tokenizer.decode(whole[max_tokens - 1 : -1])),
            )
    return ids, mask
