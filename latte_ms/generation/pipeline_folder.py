"""Pipelines on disk and on the hub, in diffusers' folder layout."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import mindspore as ms

from latte_ms.generation import schedulers
from latte_ms.text import T5Config, load_tokenizer
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.configuration import read_config
from latte_ms.weights import pretrained

INDEX = "model_index.json"
CLASS = "LattePipeline"
TEMPORAL_DECODER = "vae_temporal_decoder"
NETWORKS = ("text_encoder", "vae", "transformer")
COMPONENTS = ("tokenizer", *NETWORKS, "scheduler")
DIFFUSERS_VERSION = "0.35.2"  # whose layout it is
_HUB_OPTIONS = {
    *("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies"),
    *("endpoint", "max_workers", "allow_patterns", "ignore_patterns"),
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CONFIGS: dict[str, Callable[[Path], Any]] = {
    "text_encoder": T5Config.from_json,
    "vae": read_config,
    "transformer": LatteT2VConfig.from_json,
}
Types: TypeAlias = ms.Type | Mapping[str, ms.Type] | None


@dataclass(frozen=True)
class Deferred:
    """A network still on disk: its configuration, and how to read it."""

    config: Any
    load: Callable[[], Any]
    temporal_interpolation: bool = False  # of the transformer


@dataclass(frozen=True)
class Reader:
    """How the components of one folder are read; see `LattePipeline.from_pretrained`.

    Raises ValueError for types of components that do not exist.
    """

    folder: Path
    dtype: Types = None
    storage: Types = None
    variant: str | None = None
    temporal_decoder: bool = False
    temporal_interpolation: bool = False
    low_memory: bool = False
    streamed: bool = False

    def __post_init__(self) -> None:
        for name, types in (("mindspore_dtype", self.dtype), ("storage_dtype", self.storage)):
            if isinstance(types, Mapping):
                unknown = sorted(set(types) - {*NETWORKS, "default"})
                if unknown:
                    raise ValueError(
                        f"`{name}` must have some of the keys {[*NETWORKS, 'default']}, "
                        f"got {unknown}."
                    )
        if self.variant is not None and not any(map(self._has_variant, NETWORKS)):
            raise ValueError(f"`variant` (={self.variant!r}) is in no component of {self.folder}.")

    def read(self, names: Iterable[str]) -> dict[str, Any]:
        """The components `names`; networks as `Deferred` under `low_memory`.

        Raises:
            FileNotFoundError: a file is missing; before any network is read.
            ValueError: a network or its weights do not fit.
        """
        networks = [name for name in names if name in NETWORKS]
        found: dict[str, Any] = {name: self._described(name) for name in networks}
        if "scheduler" in names:
            found["scheduler"] = schedulers.load(self._path("scheduler"))
        if "tokenizer" in names:
            found["tokenizer"] = load_tokenizer(self._path("tokenizer"))
        if not self.low_memory:
            found |= {name: found[name].load() for name in networks}
        return found

    def _described(self, name: str) -> Deferred:
        path = self._path(name)
        config, weights = path / pretrained.CONFIG, "*.safetensors"
        if not config.is_file() or not any(path.glob(weights)):
            raise FileNotFoundError(
                f"`{name}` must be a folder with {pretrained.CONFIG} and {weights}, got {path}."
            )
        read = partial(self._network, name)
        return Deferred(_CONFIGS[name](config), read, self.temporal_interpolation)

    def _network(self, name: str) -> Any:
        path = self._path(name)
        dtype = _type_of(self.dtype, name) or ms.float32
        storage = _type_of(self.storage, name)
        variant = self.variant if self._has_variant(name) else None
        if name == "transformer":
            return pretrained.load_transformer(
                path, dtype, storage, variant, self.temporal_interpolation
            )
        if name == "vae":
            return pretrained.load_autoencoder(path, dtype, storage, variant)
        return pretrained.load_text_encoder(path, dtype, storage, variant, self.streamed)

    def _path(self, name: str) -> Path:
        is_other = name == "vae" and self.temporal_decoder
        return self.folder / (TEMPORAL_DECODER if is_other else name)

    def _has_variant(self, name: str) -> bool:
        """Some files of a folder may have no variant; their plain ones are read then."""
        return any(self._path(name).glob(f"*.{self.variant}*.safetensors"))


def find(name_or_path: str | Path, **hub: Any) -> Path:
    """The local folder of a pipeline; a hub id is downloaded.

    Args:
        hub: of huggingface_hub's `snapshot_download`, such as revision, cache_dir and token.
    Raises:
        FileNotFoundError: it is no folder and no hub id, or holds no model_index.json.
        OSError: the hub does not have it, or cannot be reached.
        TypeError: an option is none of snapshot_download's.
        ValueError: the index is that of another pipeline.
    """
    unknown = sorted(set(hub) - _HUB_OPTIONS)
    if unknown:
        raise TypeError(
            f"`from_pretrained` has no arguments {unknown}; types are `mindspore_dtype`."
        )
    folder = Path(name_or_path)
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(str(name_or_path)):
            raise FileNotFoundError(f"`{name_or_path}` is no folder and no id of the hub.")
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(name_or_path), **hub))
        except OSError as error:
            raise OSError(f"`{name_or_path}` cannot be had from the hub: {error}") from error
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"A pipeline must be a folder with {INDEX}, got {folder}.")
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if name != CLASS:
        raise ValueError(f"{index} must describe a {CLASS}, its `_class_name` is {name!r}.")
    return folder


def patterns(wanted: list[str], variant: str | None, temporal_decoder: bool) -> dict[str, Any]:
    """Which files of a hub repository are downloaded: those of the `wanted` components."""
    folders = [TEMPORAL_DECODER if n == "vae" and temporal_decoder else n for n in wanted]
    return {
        "allow_patterns": [
            INDEX,
            *(f"{name}/*.{suffix}" for name in folders for suffix in ("json", "model", "txt")),
            *(f"{name}/*.safetensors" for name in folders),
        ],
        "ignore_patterns": None if variant else ["*.*.safetensors", "*.index.*.json"],
    }


def absent(folder: Path) -> list[str]:
    """Components that the index of a folder names as missing on purpose."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [name for name in COMPONENTS if (index.get(name) or [None])[0] is None]


def write(folder: Path, components: Mapping[str, Any], variant: str | None) -> None:
    """Write a folder that diffusers' `LattePipeline.from_pretrained` opens.

    `variant` goes into the names of the weights' files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": CLASS, "_diffusers_version": DIFFUSERS_VERSION}
    for name, component in components.items():
        index[name] = _library_of(name, component)
        if component is None:
            continue
        if name in ("tokenizer", "scheduler"):
            component.save_pretrained(str(folder / name))
        else:
            kind = {"vae": "autoencoder"}.get(name, name)
            save = getattr(pretrained, f"save_{kind}")
            save(component, folder / name, variant)
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")


def _library_of(name: str, component: Any) -> list[str | None]:
    """Where diffusers finds the class of a component."""
    if component is None:
        return [None, None]
    if name == "text_encoder":
        return ["transformers", "T5EncoderModel"]
    if name == "transformer":
        return ["diffusers", "LatteTransformer3DModel"]
    return ["transformers" if name == "tokenizer" else "diffusers", type(component).__name__]


def _type_of(types: Types, name: str) -> ms.Type | None:
    if isinstance(types, Mapping):
        return types.get(name, types.get("default"))
    return types
