"""Pipelines on disk, in diffusers' folder layout."""

import re
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import mindspore as ms

from latte_ms import schedulers
from latte_ms.adapters.state import Adapters
from latte_ms.adapters.weights import modules
from latte_ms.config import read_json, write_json
from latte_ms.generation.pipelines import hub
from latte_ms.generation.pipelines.hub import INDEX
from latte_ms.messages import shown
from latte_ms.text import T5Config, load_tokenizer
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.configuration import read_config
from latte_ms.weights import files, pretrained
from latte_ms.weights.errors import located
from latte_ms.weights.file_names import how_to_convert, is_safetensors
from latte_ms.weights.pretrained import check_dtype

PIPELINE_CLASS = "LattePipeline"
TEMPORAL_DECODER = "vae_temporal_decoder"
NETWORKS = ("text_encoder", "vae", "transformer")
COMPONENTS = ("tokenizer", *NETWORKS, "scheduler")
DIFFUSERS_VERSION = "0.35.2"  # whose layout it is
DtypeArgument: TypeAlias = ms.Type | Mapping[str, ms.Type] | None
_VARIANT = re.compile(r"[\w-]+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])B", re.IGNORECASE)
_CONFIGS: dict[str, Callable[[Path], Any]] = {
    "text_encoder": T5Config.from_json,
    "vae": read_config,
    "transformer": LatteT2VConfig.from_json,
}


@dataclass(frozen=True)
class Dtypes:
    """The dtypes of one network."""

    compute: ms.Type = ms.float32
    parameter: ms.Type | None = None  # None: as `compute`, or as on disk


def choose_dtypes(
    compute: DtypeArgument,
    parameter: DtypeArgument,
    streamed: bool,
    names: Collection[str] = NETWORKS,
) -> dict[str, Dtypes]:
    """The dtypes of the networks among the components `names`.

    Args:
        compute, parameter: `mindspore_dtype` and `parameter_dtype` of `from_pretrained`.
        streamed: weights of the text encoder stay on disk as they are; a parameter dtype for all
            networks does not apply to them.
    Raises:
        ValueError: a dtype or a component is unknown, this backend cannot compute in a dtype, or
            there is a parameter dtype for streamed weights.
    """
    for argument, dtypes in (("mindspore_dtype", compute), ("parameter_dtype", parameter)):
        _check_dtypes(argument, dtypes)
    if streamed and isinstance(parameter, Mapping) and parameter.get("text_encoder") is not None:
        raise ValueError(
            '`parameter_dtype` must have no "text_encoder" together with `streamed_text_encoder`, '
            f"whose weights stay on disk as they are, got {shown(parameter['text_encoder'])}."
        )
    chosen = {}
    for name in NETWORKS:
        if name not in names:
            continue
        stored = None if streamed and name == "text_encoder" else _dtype_for(parameter, name)
        chosen[name] = Dtypes(_dtype_for(compute, name) or ms.float32, stored)
        check_dtype("mindspore_dtype", chosen[name].compute, computes=True)
    if "text_encoder" in chosen and (stored := chosen["text_encoder"].parameter) is not None:
        # Tokens are looked up in a table of this dtype.
        check_dtype('parameter_dtype["text_encoder"]', stored, computes=True)
    return chosen


def _check_dtypes(argument: str, dtypes: DtypeArgument) -> None:
    if isinstance(dtypes, Mapping):
        known = [*NETWORKS, "default"]
        unknown = [name for name in dtypes if name not in known]
        if unknown:
            raise ValueError(f"`{argument}` must have some of the keys {known}, got {unknown}.")
        named: dict[str, Any] = {f'{argument}["{name}"]': dtypes[name] for name in dtypes}
    else:
        named = {argument: dtypes}
    for name, value in named.items():
        if value is not None:
            check_dtype(name, value)


def _dtype_for(dtypes: DtypeArgument, name: str) -> ms.Type | None:
    if isinstance(dtypes, Mapping):
        return dtypes.get(name, dtypes.get("default"))
    return dtypes


class Deferred:
    """A network still on disk, shared by all pipelines that hold this object.

    Args:
        config: its configuration.
        read: loads the network.
        temporal_interpolation: of the transformer.
    """

    def __init__(
        self, config: Any, read: Callable[[], Any], temporal_interpolation: bool = False
    ) -> None:
        self.config, self.read = config, read
        self.temporal_interpolation = temporal_interpolation
        self.adapters: Any = None  # of the transformer
        self._loaded: Callable[[], Any] = lambda: None  # or a weak reference
        self._settings: list[Callable[[Any], None]] = []

    def load(self) -> Any:
        """The network: the one still in use, or else loaded now."""
        network = self._loaded()
        if network is None:
            network = self.read()
            for setting in self._settings:
                setting(network)
            self._loaded = weakref.ref(network)
        return network

    def configure(self, setting: Callable[[Any], None]) -> None:
        """Apply `setting` to the network, now if it is loaded and whenever it is loaded again."""
        self._settings.append(setting)
        network = self._loaded()
        if network is not None:
            setting(network)


@dataclass(frozen=True)
class Reader:
    """How the components of one folder are read; see `LattePipeline.from_pretrained`.

    Raises ValueError where no component has the variant.
    """

    folder: Path
    dtypes: Mapping[str, Dtypes]  # of the networks to be read
    variant: str | None = None
    temporal_decoder: bool = False
    temporal_interpolation: bool = False
    low_memory: bool = False
    streamed: bool = False

    def __post_init__(self) -> None:
        if self.variant is not None and not any(map(self._has_variant, NETWORKS)):
            raise ValueError(
                f"`variant` (={shown(self.variant)}) is in no component of {self.folder}."
            )

    def read(self, names: Iterable[str]) -> dict[str, Any]:
        """The components `names`; networks as `Deferred` under `low_memory`.

        Raises:
            FileNotFoundError: a file is missing; before any network is read.
            ValueError: a network or its weights do not fit.
        """
        networks = [name for name in names if name in NETWORKS]
        components: dict[str, Any] = {name: self._deferred(name) for name in networks}
        if "scheduler" in names:
            components["scheduler"] = schedulers.load(self._path("scheduler"))
        if "tokenizer" in names:
            components["tokenizer"] = load_tokenizer(self._path("tokenizer"))
        if not self.low_memory:
            components |= {name: components[name].read() for name in networks}
        return components

    def _deferred(self, name: str) -> Deferred:
        path, weights = self._path(name), "*.safetensors"
        if not any(path.glob(weights)):
            raise FileNotFoundError(
                f"`{name}` must be a folder with {pretrained.CONFIG} and {weights}, got {path}. "
                f"{how_to_convert(path)}".rstrip()
            )
        config = pretrained.read_configuration(path, name, _CONFIGS[name])
        deferred = Deferred(config, partial(self._network, name), self.temporal_interpolation)
        if name == "transformer":
            variant = self.variant if self._has_variant(name) else None
            _take_adapters(deferred, path, "ema", variant)
        return deferred

    def _network(self, name: str) -> Any:
        path = self._path(name)
        dtype, parameter_dtype = self.dtypes[name].compute, self.dtypes[name].parameter
        variant = self.variant if self._has_variant(name) else None
        if name == "transformer":
            return pretrained.load_transformer(
                path, dtype, parameter_dtype, variant, self.temporal_interpolation
            )
        if name == "vae":
            return pretrained.load_autoencoder(path, dtype, parameter_dtype, variant)
        return pretrained.load_text_encoder(path, dtype, parameter_dtype, variant, self.streamed)

    def _path(self, name: str) -> Path:
        is_other = name == "vae" and self.temporal_decoder
        return self.folder / (TEMPORAL_DECODER if is_other else name)

    def _has_variant(self, name: str) -> bool:
        """Whether the component has weights of the variant; else its plain weights are read."""
        files = self._path(name).glob("*")
        return any(is_safetensors(file.name, self.variant) for file in files)


def trained_transformer(
    path: str | Path,
    entry: str,
    dtype: ms.Type,
    parameter_dtype: ms.Type | None,
    temporal_interpolation: bool,
) -> Deferred:
    """The transformer of another folder, or of a training checkpoint, loaded when it is needed.

    Args:
        entry: of a checkpoint, `ema` or `model`.
        dtype, parameter_dtype, temporal_interpolation: as in `load_transformer`.
    Raises:
        FileNotFoundError, ValueError: it is no such folder.
    """
    config = pretrained.transformer_config(path)
    read = partial(
        pretrained.load_transformer,
        path,
        dtype,
        parameter_dtype,
        temporal_interpolation=temporal_interpolation,
        entry=entry,
    )
    deferred = Deferred(config, read, temporal_interpolation)
    _take_adapters(deferred, path, entry)
    return deferred


def _take_adapters(
    deferred: Deferred, path: str | Path, entry: str, variant: str | None = None
) -> None:
    """Let adapters be added before the transformer in `path` is loaded; they act when it is."""
    deferred.adapters = Adapters(lambda: modules(files.read(path, entry, variant).specs))
    deferred.configure(deferred.adapters.attach)


def resolve(
    name_or_path: str | Path,
    names: Iterable[str],
    variant: str | None,
    temporal_decoder: bool,
    options: Mapping[str, Any],
) -> Path:
    """The local folder of a pipeline; of a hub id, the files of components `names` are downloaded.

    Args:
        options: of huggingface_hub's `snapshot_download`, such as revision, cache_dir and token.
    Raises:
        FileNotFoundError: it is neither a folder nor a hub id, or holds no model_index.json.
        OSError: the hub does not have it, or cannot be reached.
        TypeError: an option is none of snapshot_download's.
        ValueError: the index is damaged, or that of another pipeline.
    """
    unknown = sorted(set(options) - hub.OPTIONS)
    if unknown:
        raise TypeError(
            f"`from_pretrained` has no arguments {unknown}; the dtype is `mindspore_dtype`."
        )
    check_variant(variant)
    folder = Path(name_or_path)
    if not folder.is_dir():
        if not hub.is_id(str(name_or_path)):
            raise FileNotFoundError(f"`{name_or_path}` is neither a folder nor an id of the hub.")
        folders = [TEMPORAL_DECODER if n == "vae" and temporal_decoder else n for n in names]
        folder = hub.download(str(name_or_path), folders, variant, options)
    _index_of(folder)
    return folder


def listed(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the components `names` that the index of a folder lists, and not as null.

    Raises ValueError where the scheduler, without which there is no pipeline, is not among them.
    """
    index = _index_of(folder)
    missing = [name for name in COMPONENTS if index.get(name) in (None, [None, None])]
    if "scheduler" in names and "scheduler" in missing:
        raise ValueError(f"{folder / INDEX}: `scheduler` must be listed, or be given.")
    return [name for name in names if name not in missing]


def check_variant(variant: Any) -> None:
    """Raise ValueError for what cannot be part of a file name."""
    if variant is not None and not (isinstance(variant, str) and _VARIANT.fullmatch(variant)):
        raise ValueError(
            "`variant` must be letters, digits, `_` and `-` such as 'fp16', or None, "
            f"got {shown(variant)}."
        )


def shard_bytes(size: int | str | None) -> int | None:
    """Bytes of `max_shard_size`, such as 5_000_000 or "5MB". Raises ValueError."""
    if size is None or (type(size) is int and size > 0):
        return size
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    count = float(match[1]) * 1000 ** ("KMGT".index(match[2].upper()) + 1) if match else 0.0
    if count < 1:
        raise ValueError(
            f"`max_shard_size` must be a number of bytes above 0, or a string such as '10GB', "
            f"got {shown(size)}."
        )
    return int(count)


def write(
    folder: Path, components: Mapping[str, Any], variant: str | None, shard_size: int | None
) -> None:
    """Write a folder that diffusers' `LattePipeline.from_pretrained` opens.

    `variant` is part of the names of the weight files, each of at most `shard_size` bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": PIPELINE_CLASS, "_diffusers_version": DIFFUSERS_VERSION}
    for name, component in components.items():
        index[name] = _library_and_class(name, component)
        if component is None:
            continue
        if name in ("tokenizer", "scheduler"):
            component.save_pretrained(str(folder / name))
        else:
            pretrained.save_pretrained(component, folder / name, variant, shard_size)
    write_json(folder / INDEX, index)


def _library_and_class(name: str, component: Any) -> list[str | None]:
    """Where diffusers finds the class of a component."""
    if component is None:
        return [None, None]
    if name == "text_encoder":
        return ["transformers", "T5EncoderModel"]
    if name == "transformer":
        return ["diffusers", "LatteTransformer3DModel"]
    return ["transformers" if name == "tokenizer" else "diffusers", type(component).__name__]


def _index_of(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"A pipeline must be a folder with {INDEX}, got {folder}.")
    with located(path):
        index = read_json(path)
        kind = index.get("_class_name")
        if kind != PIPELINE_CLASS:
            raise ValueError(
                f"{path} must describe a {PIPELINE_CLASS}, its `_class_name` is {shown(kind)}."
            )
        for name in COMPONENTS:
            _check_listed(name, index.get(name))
    return index


def _check_listed(name: str, value: Any) -> None:
    """Raise ValueError unless a component is listed by its library and class, or as absent."""
    pair = value if isinstance(value, list) and len(value) == 2 else [value]
    named = len(pair) == 2 and all(isinstance(part, str) and part for part in pair)
    if value is not None and value != [None, None] and not named:
        raise ValueError(
            f"`{name}` must be a library and a class, or two nulls, got {shown(value)}."
        )
