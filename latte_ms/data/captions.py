"""Captions of videos or images: a CSV or JSONL file of paths and captions.

CSV has a header with the columns `path` and `caption`; JSONL has an object with these keys on each
line. Other columns and keys are ignored. A path is relative to the folder of the data set, with
forward slashes. A video with several captions has several lines.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from latte_ms.messages import one_line, shown

logger = logging.getLogger(__name__)

COLUMNS = ("path", "caption")
FORMATS = (".csv", ".jsonl")
_SHOWN = 5  # errors in one message

Row = tuple[int, str, str]  # number of the line, path, caption


@dataclass(frozen=True)
class Captions:
    """The captions of N videos; read from a file by `read_captions`.

    Attributes:
        texts: the T different captions, in the order of the file.
        caption_ids: path of each video -> numbers of its captions in `texts`; in the file's order.
        lines: path of each video -> the number of the line that names it first.
    """

    texts: tuple[str, ...]
    caption_ids: dict[str, tuple[int, ...]]
    lines: dict[str, int]

    @cached_property
    def names(self) -> list[str]:
        """The paths of the videos. A video's number is its place in this list."""
        return list(self.caption_ids)

    def choose(self, video: int, uniform_number: float) -> int:
        """The number of one caption of a video.

        Args:
            video: number of the video in `names`.
            uniform_number: uniformly distributed in [0, 1).
        """
        numbers = self.caption_ids[self.names[video]]
        return numbers[int(uniform_number * len(numbers))]


class CaptionEmbeddings(Protocol):
    """Where the prompt embeddings of the captions of a `Captions` come from.

    Shapes: L tokens, E channels of the text encoder.
    """

    @property
    def unconditional(self) -> np.ndarray:
        """(L, E) float32: the empty prompt's embedding, its padding included.

        It has no mask: as in sampling, the null condition is seen under the mask of the caption
        in whose place it stands.
        """

    def __call__(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the captions `numbers` (...,) of `texts`: rows (..., L, E) float32, mask (..., L).

        The mask is int32, 1 on tokens and 0 on the padding after them.
        """


def padded(
    captions: Iterable[np.ndarray], shape: tuple[int, ...], length: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a `CaptionEmbeddings` returns, with rows of zeros on the padding.

    Args:
        captions: rows (tokens, E) of each caption, in the order of an array of the shape `shape`.
        length, channels: L and E.
    Returns:
        Rows (*shape, L, E) float32 and masks (*shape, L) int32.
    """
    rows = np.zeros((math.prod(shape), length, channels), np.float32)
    mask = np.zeros(rows.shape[:2], np.int32)
    for place, tokens in enumerate(captions):
        rows[place, : len(tokens)] = tokens
        mask[place, : len(tokens)] = 1
    return rows.reshape(*shape, length, channels), mask.reshape(*shape, length)


def read_captions(path: str | Path) -> Captions:
    """The captions in a file, UTF-8 with or without a byte order mark.

    Blanks around a path or a caption are removed. A line that repeats an earlier one is left out,
    with a warning.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: it is not .csv or .jsonl, or its lines are not as the module describes them; the
            message gives their numbers.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"`captions` must be a file of {' or '.join(FORMATS)}, got {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"`captions` is not a file: {path}.")
    text = _decode(path)
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    errors: list[str] = []
    captions = _collected(path, read(path, text, errors), errors)
    if errors:
        more = f" And {len(errors) - _SHOWN} more." if len(errors) > _SHOWN else ""
        raise ValueError(f"`captions` (={path}): {' '.join(errors[:_SHOWN])}{more}")
    if not captions.texts:
        raise ValueError(f"`captions` (={path}) must hold at least one caption, got none.")
    return captions


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"`captions` (={path}) must be UTF-8; line {line} is not.") from error


def _csv_rows(path: Path, text: str, errors: list[str]) -> Iterator[Row]:
    """The rows of a CSV file; what is wrong with the others is added to `errors`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        wrong = [name for name in COLUMNS if header.count(name) != 1]
        if wrong:
            raise ValueError(
                f"`captions` (={path}) must begin with a line that names the columns "
                f"{' and '.join(COLUMNS)}, each once; got {shown(header)}."
            )
        places = [header.index(name) for name in COLUMNS]
        before = reader.line_num
        for values in reader:
            line, before = before + 1, reader.line_num  # a quoted value may span lines
            if len(values) == len(header):
                yield line, values[places[0]], values[places[1]]
            elif values:
                errors.append(
                    f"Line {line} has {len(values)} values for {len(header)} columns; a value "
                    "with a comma must be in double quotes."
                )
    except csv.Error as error:
        errors.append(f"Line {reader.line_num} is not valid CSV: {one_line(error)}.")


def _json_rows(path: Path, text: str, errors: list[str]) -> Iterator[Row]:
    """The rows of a JSONL file; what is wrong with the others is added to `errors`."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            errors.append(f"Line {line} is not valid JSON: {one_line(error, 100)}.")
            continue
        found = [values.get(name) for name in COLUMNS] if isinstance(values, dict) else []
        texts = [value for value in found if isinstance(value, str)]
        if len(texts) == len(COLUMNS):
            yield line, texts[0], texts[1]
        else:
            errors.append(
                f"Line {line} must be an object with texts under the keys "
                f"{' and '.join(COLUMNS)}, got {shown(values)}."
            )


def _collected(path: Path, rows: Iterator[Row], errors: list[str]) -> Captions:
    numbers: dict[str, int] = {}  # by caption
    chosen: dict[str, dict[int, int]] = {}  # path -> number of a caption -> line
    repeated: list[str] = []
    for line, name, caption in rows:
        name, caption = name.strip(), caption.strip()
        wrong = _error(name, caption)
        if wrong:
            errors.append(f"Line {line}: {wrong}")
            continue
        number = numbers.setdefault(caption, len(numbers))
        lines = chosen.setdefault(PurePosixPath(name).as_posix(), {})
        if number in lines:
            repeated.append(f"line {line} repeats line {lines[number]}")
        lines.setdefault(number, line)
    if repeated:
        logger.warning(
            "%s: %d lines are left out: %s.", path, len(repeated), ", ".join(repeated[:_SHOWN])
        )
    return Captions(
        tuple(numbers),
        {name: tuple(lines) for name, lines in chosen.items()},
        {name: next(iter(lines.values())) for name, lines in chosen.items()},
    )


def _error(name: str, caption: str) -> str:
    """What is wrong with a path or a caption; empty if nothing is."""
    if not name or not caption:
        return f"the {'caption' if name else 'path'} is empty."
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or parts == PurePosixPath("."):
        return f"the path must lie under the folder of the data set, got {shown(name)}."
    if "\\" in name:
        return f"the path must have forward slashes, got {shown(name)}."
    for text in (name, caption):
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            return f"NUL and unpaired surrogates cannot be used, got {shown(text)}."
    return ""
