"""Folders of safetensors: diffusers models, training checkpoints, shards with an index.

`<stem>.safetensors` is one entry, named by its stem; `diffusion_pytorch_model` is the unnamed one.
`file_names` has the spellings that are read. Of those, this module writes the variant before the
number of a shard, and before `.json`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.messages import shown
from latte_ms.weights.entries import UNNAMED, unwrapped
from latte_ms.weights.errors import WeightError, located, quoted
from latte_ms.weights.file_names import INDEX_SUFFIX, SAFETENSORS, how_to_convert, parse
from latte_ms.weights.formats import limits
from latte_ms.weights.formats.binary import BinaryFile
from latte_ms.weights.formats.safetensors import read_safetensors, write_safetensors
from latte_ms.weights.formats.torch_reader import read_torch
from latte_ms.weights.tensors import Progress, Tensors

DIFFUSERS_STEM = "diffusion_pytorch_model"


def folder_files(path: Path, variant: str | None = None) -> dict[str, Path]:
    """The file (or index) of each entry of one variant (`fp16` in `<stem>.fp16.safetensors`)."""
    files: dict[str, Path] = {}
    shards, variants = set(), set()
    try:
        present = sorted(path.iterdir())
    except OSError as error:
        raise WeightError(f"{path} cannot be read: {error.strerror}.") from error
    for file in present:
        name = parse(file.name)
        if name is None or name.suffix != SAFETENSORS:
            continue
        variants.add(name.variant or "(none)")
        if name.variant != variant:
            continue
        entry = UNNAMED if name.stem == DIFFUSERS_STEM else name.stem
        if name.kind == "shard":
            shards.add(name.stem)
        elif name.kind == "index" or entry not in files:  # an index stands for its shards and wins
            files[entry] = file
    if not variants:
        raise WeightError(
            f"{path} is a folder without .safetensors files. {how_to_convert(path)}".rstrip()
        )
    if shards and not files:
        index = _index_name(min(shards), variant)
        raise WeightError(f"{path} holds shards, and their index is missing: {index}.")
    if not files:
        raise WeightError(
            f"`variant` (={shown(variant)}) is not in {path}, which has the variants "
            f"{quoted(sorted(variants))}."
        )
    return files


def read_folder_file(file: Path) -> Tensors:
    """The tensors of one entry, from its file or index."""
    tensors = read_index(file) if file.suffix == INDEX_SUFFIX else read_safetensors(file)
    with located(file):
        return tensors.renamed(unwrapped({name: name for name in tensors}))


def read_index(path: Path) -> Tensors:
    """The tensors of all shards, safetensors or torch's, that an index file names."""
    file = parse(path.name)
    if file is None or file.kind != "index":
        raise WeightError(f"{path}: an index of weights is called <stem>.safetensors.index.json.")
    with located(path):
        shard_of = _weight_map(path)
        shards = {}
        for name in sorted(set(shard_of.values())):
            if Path(name).name != name or not name.endswith(file.suffix):
                raise WeightError(
                    f"a shard must be a file in the folder of its index, got {shown(name)}."
                )
            if not os.path.isfile(path.parent / name):
                raise WeightError(f"the shard {name} is missing.")
            shards[name] = _read_shard(path.parent / name)
        missing = [name for name, shard in shard_of.items() if name not in shards[shard]]
        extra = [name for shard in shards.values() for name in shard if name not in shard_of]
        if missing or extra:
            raise WeightError(
                f"index and shards disagree; only in the index: {quoted(missing[:8])}; "
                f"only in the shards: {quoted(extra[:8])}."
            )

    def fetch(name: str) -> np.ndarray:
        return shards[shard_of[name]][name]

    return Tensors({name: shards[shard].specs[name] for name, shard in shard_of.items()}, fetch)


def write_folder(
    path: Path,
    entries: Mapping[str, Tensors],
    shard_size: int | None = None,
    progress: Progress = None,
    variant: str | None = None,
) -> None:
    """Write each entry as one file, or in shards of at most `shard_size` bytes.

    Files of the same entry and variant that the new ones replace are removed; others stay.
    """
    path.mkdir(parents=True, exist_ok=True)
    for entry, tensors in entries.items():
        stem = _stem(entry, variant)
        shards = _shards(tensors, shard_size)
        if len(shards) == 1:
            names = {f"{stem}.safetensors": shards[0]}
        else:
            count = len(shards)
            names = {
                f"{stem}-{i:05d}-of-{count:05d}.safetensors": s for i, s in enumerate(shards, 1)
            }
        for file, members in names.items():
            write_safetensors(path / file, tensors.renamed({n: n for n in members}), progress)
        written = set(names)
        if len(shards) > 1:
            written.add(_write_index(path, entry, variant, names, tensors.nbytes))
        for old in weight_files(path, entry, variant):
            if old.name not in written:
                old.unlink()


def weight_files(path: Path, entry: str, variant: str | None = None) -> list[Path]:
    """Files of an entry in a folder: single, shards and index."""
    stem = entry or DIFFUSERS_STEM
    return [
        file
        for file in sorted(path.glob("*"))
        if (name := parse(file.name)) and name[:3] == (stem, variant, SAFETENSORS)
    ]


def _read_shard(path: Path) -> Tensors:
    if path.suffix == SAFETENSORS:
        return read_safetensors(path)
    entries = read_torch(path)
    if len(entries) > 1:
        raise WeightError(f"the shard {path.name} holds more than one entry: {quoted(entries)}.")
    return next(iter(entries.values()))


def _stem(entry: str, variant: str | None) -> str:
    return (entry or DIFFUSERS_STEM) + (f".{variant}" if variant else "")


def _index_name(entry: str, variant: str | None) -> str:
    return f"{_stem(entry, None)}.safetensors.index{f'.{variant}' if variant else ''}.json"


def _weight_map(path: Path) -> dict[str, str]:
    file = BinaryFile(path)
    limits.check_header(file.size)
    content: Any = limits.parse_json(file.read(0, file.size))
    try:
        shard_of = content["weight_map"]
    except (TypeError, KeyError) as error:
        raise WeightError("it is not an index of weights: it has no `weight_map`.") from error
    if not isinstance(shard_of, dict) or not all(isinstance(v, str) for v in shard_of.values()):
        raise WeightError("its `weight_map` does not map names to files.")
    return shard_of


def _shards(tensors: Tensors, shard_size: int | None) -> list[list[str]]:
    """Names in order, a new shard where the next tensor would exceed `shard_size`."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, spec in tensors.specs.items():
        if shard_size is not None and shards[-1] and used + spec.nbytes > shard_size:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += spec.nbytes
    return shards


def _write_index(
    path: Path, entry: str, variant: str | None, shards: Mapping[str, list[str]], total: int
) -> str:
    """Write the index of `shards` (file -> names of tensors); returns its name."""
    weight_map = {name: file for file, members in shards.items() for name in members}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    name = _index_name(entry, variant)
    with atomic_file(path / name) as partial:
        partial.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return name
