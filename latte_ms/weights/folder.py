"""Folders of safetensors: diffusers models, training checkpoints, shards with an index.

`<stem>.safetensors` is one entry, named by its stem; `diffusion_pytorch_model` is the unnamed one.
A sharded entry is `<stem>-00001-of-00002.safetensors` and so on, with
`<stem>.safetensors.index.json`. A variant goes in front of the shard number and of `.json`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.weights.binary_file import appearing
from latte_ms.weights.entries import UNNAMED, unwrapped
from latte_ms.weights.errors import WeightError, listing
from latte_ms.weights.safetensors_file import read_safetensors, write_safetensors
from latte_ms.weights.tensors import Tensors

DIFFUSERS_STEM = "diffusion_pytorch_model"
INDEX_SUFFIX = ".json"
_SINGLE = re.compile(r"(?P<stem>[^.]+)(\.(?P<variant>[^.]+))?\.safetensors")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
_INDEX = re.compile(r"(?P<stem>[^.]+)\.safetensors\.index(\.(?P<variant>[^.]+))?\.json")


def folder_files(path: Path, variant: str | None = None) -> dict[str, Path]:
    """The file (or index) of each entry of one variant (`fp16` in `<stem>.fp16.safetensors`)."""
    files, variants = {}, set()
    for pattern in (_SINGLE, _INDEX):  # an index stands for its shards and wins
        for file in sorted(path.iterdir()):
            match = pattern.fullmatch(file.name)
            if match is None or _SHARD.fullmatch(file.name):
                continue
            variants.add(match["variant"] or "(none)")
            if match["variant"] == variant:
                entry = UNNAMED if match["stem"] == DIFFUSERS_STEM else match["stem"]
                files[entry] = file
    if not variants:
        raise WeightError(f"{path} is a folder without .safetensors files.")
    if not files:
        raise WeightError(
            f"`variant` (={variant!r}) is not in {path}; variants found: "
            f"{listing(sorted(variants))}."
        )
    return files


def read_folder_file(file: Path) -> Tensors:
    """The tensors of one entry, from its file or index."""
    tensors = read_index(file) if file.suffix == INDEX_SUFFIX else read_safetensors(file)
    return tensors.renamed(unwrapped({name: name for name in tensors}))


def read_index(path: Path) -> Tensors:
    """The tensors of all shards that an index file names."""
    if _INDEX.fullmatch(path.name) is None:
        raise WeightError(f"{path}: a .json of weights is called <stem>.safetensors.index.json.")
    where = _weight_map(path)
    shards = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightError(f"{path}: a shard is a file beside its index, got {name!r}.")
        if not (path.parent / name).is_file():
            raise WeightError(f"{path}: the shard {name} is missing.")
        shards[name] = read_safetensors(path.parent / name)
    lost = [name for name, shard in where.items() if name not in shards[shard]]
    extra = [name for shard in shards.values() for name in shard if name not in where]
    if lost or extra:
        raise WeightError(
            f"{path}: index and shards disagree; only in the index: {listing(lost[:8])}; "
            f"only in the shards: {listing(extra[:8])}."
        )

    def fetch(name: str) -> np.ndarray:
        return shards[where[name]][name]

    return Tensors({name: shards[where[name]].specs[name] for name in where}, fetch)


def write_folder(
    path: Path,
    entries: Mapping[str, Tensors],
    shard_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write each entry as one file, or in shards of at most `shard_size` bytes.

    Files of the same entry that the new ones replace are removed; others in the folder stay.
    """
    path.mkdir(parents=True, exist_ok=True)
    for entry, tensors in entries.items():
        stem = entry or DIFFUSERS_STEM
        shards = _shards(tensors, shard_size)
        if len(shards) == 1:
            written = {f"{stem}.safetensors"}
            write_safetensors(path / f"{stem}.safetensors", tensors, progress)
        else:
            written = _write_shards(path, stem, tensors, shards, progress)
        for file in weight_files(path, entry):
            if file.name not in written:
                file.unlink()


def weight_files(path: Path, entry: str) -> list[Path]:
    """Files of an entry in a folder: single, shards and index, without variants."""
    stem = re.escape(entry or DIFFUSERS_STEM)
    own = re.compile(rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors|{stem}\.safetensors\.index\.json")
    return [file for file in sorted(path.glob("*")) if own.fullmatch(file.name)]


def _weight_map(path: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(path.read_bytes())
        where = content["weight_map"]
    except (ValueError, TypeError, KeyError) as error:
        raise WeightError(f"{path}: it is no index: it has no `weight_map`.") from error
    if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
        raise WeightError(f"{path}: its `weight_map` does not lead from names to files.")
    return where


def _shards(tensors: Tensors, shard_size: int | None) -> list[list[str]]:
    """Names in order, cut where the next tensor would exceed `shard_size`."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, spec in tensors.specs.items():
        if shard_size is not None and shards[-1] and used + spec.nbytes > shard_size:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += spec.nbytes
    return shards


def _write_shards(
    path: Path,
    stem: str,
    tensors: Tensors,
    shards: list[list[str]],
    progress: Callable[[int], None] | None,
) -> set[str]:
    where: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(path / file, tensors.renamed({n: n for n in names}), progress)
        where.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": tensors.nbytes}, "weight_map": where}
    with appearing(path / f"{stem}.safetensors.index.json") as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n")
    return {*where.values(), f"{stem}.safetensors.index.json"}
