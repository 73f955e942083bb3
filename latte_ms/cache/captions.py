"""The embeddings of captions, encoded once: `index.json`, files of rows, and how they are read.

Shapes: n tokens of a caption, L rows of the empty prompt, E channels of the text encoder.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.cache.configuration import CaptionCacheConfig
from latte_ms.cache.index import INDEX, read_record
from latte_ms.cache.shards import CheckOnce, check_shard, read_rows
from latte_ms.config import write_json
from latte_ms.data.captions import padded
from latte_ms.messages import differences, shown
from latte_ms.options import Rule, boolean, check_each, integers
from latte_ms.progress import progress
from latte_ms.weights.tensors import Spec

ROWS = "rows"  # the array of a caption: (n, E)
EMPTY = "empty"  # entry of the empty prompt: (L, E), its padding included
_KIND, _VERSION = "latte_ms caption cache", 1
_SETTINGS = ("text_encoder", "tokenizer", "text_precision", "clean_captions", "dtype")
_RULES: dict[str, Rule] = {
    "num_captions": integers(1, 2**31 - 1),
    "captions_per_file": integers(1, 65_536),
    "channels": integers(1, 1 << 20),
    "num_rows": integers(1, 1 << 20),
    "complete": boolean,
}


@dataclass(frozen=True)
class CaptionIndex:
    """The content of a cache of captions.

    Attributes:
        settings: the recipe's keys on which embeddings depend; of `text_encoder` and `tokenizer`
            the checksums of their content.
        texts_sha256: `digest_of` the captions.
        num_captions: how many there are.
        captions_per_file: how many a file holds; the last one may have fewer.
        channels: E.
        num_rows: L.
        complete: whether all files are there.
    """

    settings: dict[str, Any]
    texts_sha256: str
    num_captions: int
    captions_per_file: int
    channels: int
    num_rows: int
    complete: bool = False

    @property
    def cache_id(self) -> str:
        """A checksum of all that its files depend on; each of them records it."""
        values = dataclasses.asdict(self)
        del values["complete"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_of(texts: Sequence[str]) -> str:
    """A checksum of captions in their order."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def write_index(folder: Path, index: CaptionIndex) -> None:
    """Write `index.json`."""
    write_json(folder / INDEX, {"kind": _KIND, "version": _VERSION, **dataclasses.asdict(index)})


def read_index(folder: Path) -> CaptionIndex | None:
    """The index in a folder, checked; None where there is none.

    Raises ValueError, with the path, for a file that holds something else.
    """
    return read_record(folder / INDEX, _KIND, _VERSION, _checked)


def _checked(values: dict[str, Any]) -> CaptionIndex:
    index = CaptionIndex(**values)
    check_each(index, _RULES)
    if not isinstance(index.settings, dict) or index.settings.keys() != set(_SETTINGS):
        raise ValueError(f"`settings` must have the keys {', '.join(_SETTINGS)}.")
    CaptionCacheConfig(INDEX, dtype=index.settings["dtype"])  # its own rules
    return index


def check_same(folder: Path, stored: CaptionIndex, asked: CaptionIndex) -> None:
    """Raise ValueError, naming what differs, unless a cache was begun with the same settings."""
    before, now = (
        dataclasses.asdict(dataclasses.replace(index, complete=False)) for index in (stored, asked)
    )
    found = [
        f"{key.removeprefix('settings.')} was {shown(old)}, is {shown(new)}"
        for key, old, new in differences(before, now)
    ]
    if found:
        raise ValueError(
            f"`caption_cache.path` (={folder}) holds another cache: {'; '.join(found)}. Choose "
            "another folder, or the same values."
        )


class CaptionLayout:
    """The files of a cache of captions in `folder`.

    Caption number i is the entry `i` of file i // `captions_per_file`. The empty prompt has a file
    of its own, with the number -1.
    """

    def __init__(self, folder: Path, index: CaptionIndex) -> None:
        self.folder, self.index, self.cache_id = folder, index, index.cache_id
        self.dtype: str = index.settings["dtype"]

    @property
    def shards(self) -> range:
        """The numbers of the files."""
        return range(-1, -(-self.index.num_captions // self.index.captions_per_file))

    def path(self, shard: int) -> Path:
        """A file."""
        name = EMPTY if shard < 0 else f"captions-{shard:06d}"
        return self.folder / f"{name}.safetensors"

    def captions(self, shard: int) -> range:
        """The captions of a file; none in that of the empty prompt."""
        if shard < 0:
            return range(0)
        first = shard * self.index.captions_per_file
        return range(first, min(first + self.index.captions_per_file, self.index.num_captions))

    def check(self, shard: int, check_bytes: bool) -> None:
        """Raise ValueError, with the path, unless a file is whole and belongs to this cache.

        `check_bytes`: check all bytes, not only the header.
        """
        names = [str(number) for number in self.captions(shard)] or [EMPTY]
        most, channels = self.index.num_rows, self.index.channels
        least = most if shard < 0 else 1

        def fits(spec: Spec) -> bool:
            rows = spec.shape[0] if len(spec.shape) == 2 else 0
            return least <= rows <= most and spec == Spec((rows, channels), self.dtype)

        rule = f"({least} to {most}, {channels}) of {self.dtype}"
        owners = {name: name for name in names}
        check_shard(self.path(shard), self.cache_id, owners, (ROWS,), fits, rule, check_bytes)

    def rows(self, shard: int, name: str) -> np.ndarray:
        """The rows of an entry, float32. Raises ValueError, with the path, for a damaged file."""
        entry = read_rows(self.path(shard), self.cache_id, name, (ROWS,), slice(None))
        return entry[ROWS].astype(np.float32)


class CachedCaptions:
    """The `CaptionEmbeddings` of a finished cache; rows are read from the files when needed.

    Args:
        texts: the captions of the recipe, which must be those of the cache.
        channels: that the network takes.
        settings: the recipe's `text_precision` and `clean_captions`.
        hide_progress: no progress bar, such as on all ranks but one.
    Raises:
        FileNotFoundError: the folder has no index.
        ValueError: the recipe asks for something else, or a file is missing, damaged or of another
            cache. The bytes of a file are checked when it is read for the first time.
    """

    def __init__(
        self,
        texts: Sequence[str],
        config: CaptionCacheConfig,
        channels: int,
        settings: dict[str, Any],
        hide_progress: bool = False,
    ) -> None:
        folder = Path(config.path).expanduser()
        index = read_index(folder)
        if index is None:
            raise FileNotFoundError(
                "`caption_cache.path` must be a folder that latte-encode has filled, got "
                f"{folder}: {INDEX} is missing."
            )
        _check_asked(folder, index, texts, config, channels, settings)
        if not index.complete:
            raise ValueError(
                f"`caption_cache.path` (={folder}) is not complete: run latte-encode again."
            )
        self._layout = CaptionLayout(folder, index)
        shards = self._layout.shards
        for shard in progress(
            shards, desc="opening files", unit="file", disable=hide_progress or None
        ):
            self._layout.check(shard, check_bytes=shard < 0)
        self._unconditional = self._layout.rows(-1, EMPTY)
        self._check_once = CheckOnce(self._layout.check, len(shards[1:]))

    @property
    def unconditional(self) -> np.ndarray:
        """See `CaptionEmbeddings`."""
        return self._unconditional

    def __call__(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `CaptionEmbeddings`."""
        rows = (self._rows(int(number)) for number in numbers.flat)
        return padded(rows, numbers.shape, *self._unconditional.shape)

    def _rows(self, number: int) -> np.ndarray:
        shard = number // self._layout.index.captions_per_file
        self._check_once(shard)
        return self._layout.rows(shard, str(number))


def _check_asked(
    folder: Path,
    index: CaptionIndex,
    texts: Sequence[str],
    config: CaptionCacheConfig,
    channels: int,
    settings: dict[str, Any],
) -> None:
    """Raise ValueError, with both values, where a recipe asks for what the cache does not hold."""
    asked = {
        **{name: (value, index.settings[name]) for name, value in settings.items()},
        "caption_cache.dtype": (config.dtype, index.settings["dtype"]),
        "caption_cache.captions_per_file": (config.captions_per_file, index.captions_per_file),
        "network.caption_channels": (channels, index.channels),
    }
    found = [
        f"`{key}` is {shown(now)}, was {shown(before)} when it was encoded"
        for key, (now, before) in asked.items()
        if now != before
    ]
    if digest_of(texts) != index.texts_sha256:
        found.append(
            f"`data.captions` has {len(texts)} captions that are not the {index.num_captions} "
            "that were encoded, in their order"
        )
    if found:
        raise ValueError(
            f"The recipe must ask for what `caption_cache.path` (={folder}) holds: "
            f"{'; '.join(found)}."
        )
