"""Names of the weight files in a folder, as diffusers and transformers have spelled them.

A file of weights is `<stem>.safetensors` or `<stem>.bin`. A sharded one is
`<stem>-00001-of-00002.safetensors` and so on, with the index `<stem>.safetensors.index.json`. A
variant such as "fp16" stands before or after the number of a shard, and in an index before the
suffix, after it, or before `.json`.
"""

import re
from pathlib import Path
from typing import NamedTuple

SAFETENSORS = ".safetensors"
INDEX_SUFFIX = ".json"
_SUFFIX = r"(?P<suffix>\.safetensors|\.bin)"
_NUMBER = r"-\d{5}-of-\d{5}"
_CONVERTIBLE = (".bin", ".pt", ".pth", ".ckpt")


class WeightFile(NamedTuple):
    """What the name of a file tells."""

    stem: str
    variant: str | None
    suffix: str  # of the weights; an index has that of its shards
    kind: str  # "single", "shard" or "index"


def _variant(place: int) -> str:
    return rf"(\.(?P<variant{place}>[^.]+))?"


# In this order: the name of a shard could be read as that of a single file.
_PATTERNS = tuple(
    (kind, re.compile(rf"(?P<stem>[^.]+?){pattern}"))
    for kind, pattern in (
        ("shard", _variant(1) + _NUMBER + _variant(2) + _SUFFIX),
        ("index", rf"{_variant(1)}{_SUFFIX}{_variant(2)}\.index{_variant(3)}\.json"),
        ("single", _variant(1) + _SUFFIX),
    )
)


def parse(name: str) -> WeightFile | None:
    """The parts of a file's name; None for a file that is no weights."""
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(name)
        if match is not None:
            found = match.groupdict()
            variants = [v for key, v in found.items() if key.startswith("variant") and v]
            if len(variants) < 2:
                return WeightFile(found["stem"], (variants or [None])[0], found["suffix"], kind)
    return None


def is_safetensors(name: str, variant: str | None) -> bool:
    """Whether a file holds, or indexes, safetensors of just this variant."""
    file = parse(name)
    return file is not None and file.suffix == SAFETENSORS and file.variant == variant


def how_to_convert(folder: Path) -> str:
    """The command that makes safetensors of what a folder holds instead; empty for nothing."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    indexes = [f for f in files if (name := parse(f.name)) and name.kind == "index"]
    others = [f for f in files if f.suffix in _CONVERTIBLE]
    for file in [*indexes, *others]:
        return (
            f"It holds {file.name}; to read it, convert it: "
            f"latte-convert --source {file} --target {folder} (tools/convert_checkpoint.py)."
        )
    return ""
