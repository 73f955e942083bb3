"""Which files of a pipeline are downloaded from the hub."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latte_ms.extras import needs
from latte_ms.messages import shown
from latte_ms.weights.file_names import is_safetensors

INDEX = "model_index.json"
OPTIONS = {
    *("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies"),
    *("endpoint", "max_workers", "allow_patterns", "ignore_patterns"),
}
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SETTINGS = (".json", ".model", ".txt")


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError, naming `method`, for options that are none of `OPTIONS`."""
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise TypeError(f"`{method}` has no arguments {unknown}.")


def is_id(name: str) -> bool:
    """Whether the hub could have a repository of this name."""
    return _ID.fullmatch(name) is not None


def choose(names: Iterable[str], folders: Iterable[str], variant: str | None) -> list[str]:
    """The files, out of the `names` in a repository, that a pipeline is read from.

    Weights are those of `variant` alone in `folders` that have it, and the plain ones in others.
    Raises ValueError where none has it.
    """
    parts = [name.split("/") for name in names]
    chosen, found = [INDEX], variant is None
    for folder in folders:
        files = [part[1] for part in parts if part[0] == folder and len(part) == 2]
        weights = [name for name in files if is_safetensors(name, variant)]
        found = found or bool(weights)
        if not weights:
            weights = [name for name in files if is_safetensors(name, None)]
        settings = [name for name in files if name.endswith(_SETTINGS) and ".index." not in name]
        chosen += [f"{folder}/{name}" for name in (*settings, *weights)]
    if not found:
        raise ValueError(f"`variant` (={shown(variant)}) is in no component of the repository.")
    return chosen


def patterns(folders: Iterable[str]) -> dict[str, Any]:
    """The same choice without a variant, where the names in a repository are not known."""
    suffixes = [*_SETTINGS, ".safetensors"]
    return {
        "allow_patterns": [INDEX, *(f"{name}/*{end}" for name in folders for end in suffixes)],
        "ignore_patterns": [
            *("*.*.safetensors", "*.index.*.json"),
            *("*.*.safetensors.index.json", "*.safetensors.*.index.json"),
        ],
    }


def download(
    name: str, folders: list[str], variant: str | None, options: Mapping[str, Any]
) -> Path:
    """A local folder with the files that a pipeline of these component `folders` is read from.

    Args:
        options: of huggingface_hub's `snapshot_download`, some of `OPTIONS`.
    Raises:
        OSError: the hub does not have it, or cannot be reached and nothing is in the cache.
        ValueError: no network in it has `variant`.
    """
    with needs("t2v", "A download from the hub"):
        from huggingface_hub import snapshot_download

    files = patterns(folders)
    if variant is not None:
        files = _of_variant(name, folders, variant, options)
    try:
        return Path(snapshot_download(name, **(files | dict(options))))
    except OSError as error:
        # huggingface_hub 2 misses the other variants, which nobody asked for, in the cache.
        incomplete = getattr(error, "snapshot_path", None)
        if variant is not None and incomplete:
            return Path(incomplete)
        raise OSError(f"`{name}` cannot be downloaded from the hub: {error}") from error


def download_lora(name: str, weight_name: str | None, options: Mapping[str, Any]) -> Path:
    """A local folder with the LoRA weights of the repository `name`.

    Args:
        weight_name: their file; None: one of the usual names.
        options: see `download`.
    Raises:
        OSError: the hub does not have it, or cannot be reached and nothing is in the cache.
    """
    with needs("t2v", "A download from the hub"):
        from huggingface_hub import snapshot_download

    files = _LORA_FILES if weight_name is None else (weight_name,)
    patterns = [*files, "adapter_config.json"]
    try:
        return Path(snapshot_download(name, **({"allow_patterns": patterns} | dict(options))))
    except OSError as error:
        raise OSError(f"`{name}` cannot be downloaded from the hub: {error}") from error


def _of_variant(
    name: str, folders: list[str], variant: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The choice of files for `snapshot_download`; all variants' where the hub is not reached."""
    from huggingface_hub import HfApi

    every = patterns(folders) | {"ignore_patterns": None}
    if options.get("local_files_only") or options.get("allow_patterns"):
        return every
    try:
        api = HfApi(endpoint=options.get("endpoint"), token=options.get("token"))
        names = api.list_repo_files(name, revision=options.get("revision"))
    except Exception:  # without the hub, requests raises OSErrors and httpx does not
        # `snapshot_download` takes the cache, or says what is wrong.
        return every
    return {"allow_patterns": choose(names, folders, variant), "ignore_patterns": None}
