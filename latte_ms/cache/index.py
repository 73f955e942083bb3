"""`index.json`: what a cache holds, and how it was made."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from latte_ms.cache.configuration import LatentCacheConfig
from latte_ms.config import read_json, write_json
from latte_ms.data.datasets import DataConfig
from latte_ms.messages import differences, shown
from latte_ms.options import Rule, boolean, check_each, integers, items

INDEX = "index.json"
VERSION = 1
_KIND = "latte_ms latent cache"
_DATA_KEYS = (
    "kind",
    "classes",
    "image_size",
    "num_frames",
    "frame_interval",
    "spacing",
    "crop",
    "flip",
)
_MAX_BYTES = 1 << 26  # that `read_json` reads
_SHOWN = 5  # differences in a message
T = TypeVar("T")

_RULES: dict[str, Rule] = {
    "latent_shape": items(integers(1, 65_536), 4, 4),
    "complete": boolean,
}


@dataclass(frozen=True)
class Index:
    """The content of a cache of N videos.

    Attributes:
        settings: sections `data` and `latent_cache` of the recipe, as far as clips depend on them,
            and `autoencoder` with configuration, precision and the checksum of its weights.
        latent_shape: (F, C, h, w) of a clip.
        names: of all videos, relative to `data.path`.
        labels: class of each video, in `class_names`; empty without classes.
        broken: name -> reason of each video that could not be read; known when all were tried.
        complete: whether all files are there.
    """

    settings: dict[str, Any]
    latent_shape: tuple[int, int, int, int]
    names: list[str]
    labels: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @property
    def cache_config(self) -> LatentCacheConfig:
        """The section `latent_cache` of this cache, with a placeholder as its path."""
        return LatentCacheConfig(**{**self.settings["latent_cache"], "path": INDEX})

    @property
    def cache_id(self) -> str:
        """A checksum of all that its files depend on; each of them records it."""
        values = dataclasses.asdict(self)
        del values["broken"], values["complete"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def check_fits_into_a_file(self, folder: Path) -> None:
        """Raise ValueError for more names than the file may hold."""
        length = len(json.dumps(dataclasses.asdict(self), indent=1))
        if length > _MAX_BYTES // 2:  # the other half is for the broken videos
            raise ValueError(
                f"`latent_cache.path` (={folder}) can index {_MAX_BYTES // 2} bytes of "
                f"names, got {length}: divide the dataset."
            )


def data_settings(data: DataConfig) -> dict[str, Any]:
    """The keys of the section `data` on which the clips of a video depend."""
    return {name: getattr(data, name) for name in _DATA_KEYS}


def check_settings(folder: Path, index: Index, data: DataConfig, cache: LatentCacheConfig) -> None:
    """Raise ValueError, with both values, where a recipe asks for what the cache does not hold."""
    asked = {"data": data_settings(data), "latent_cache": cache.settings}
    stored = {name: index.settings[name] for name in asked}
    found = list(differences(stored, asked))
    if found:
        raise ValueError(
            f"The recipe must ask for what `latent_cache.path` (={folder}) holds: "
            + "; ".join(
                f"`{key}` is {shown(now)}, was {shown(before)} when it was encoded"
                for key, before, now in found[:_SHOWN]
            )
            + "."
        )


def check_same(folder: Path, stored: Index, asked: Index) -> None:
    """Raise ValueError, naming the difference, unless a cache was begun with the same settings."""
    before, now = (
        {**index.settings, "latent_shape": index.latent_shape} for index in (stored, asked)
    )
    found = [
        f"{key} was {shown(old)}, is {shown(new)}" for key, old, new in differences(before, now)
    ]
    for name in ("names", "labels", "class_names"):
        found += _list_differences(name, getattr(stored, name), getattr(asked, name))
    if found:
        raise ValueError(
            f"`latent_cache.path` (={folder}) holds another cache: {'; '.join(found[:_SHOWN])}. "
            "Choose another folder, or the same values."
        )


def _list_differences(name: str, before: list[Any], now: list[Any]) -> list[str]:
    if before == now:
        return []
    if len(before) != len(now):
        return [f"{name} had {len(before)} entries, have {len(now)}"]
    place = next(i for i, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
    return [f"{name}: number {place} was {shown(before[place])}, is {shown(now[place])}"]


def write_index(folder: Path, index: Index) -> None:
    """Write `index.json`."""
    write_json(folder / INDEX, {"kind": _KIND, "version": VERSION, **dataclasses.asdict(index)})


def read_index(folder: Path) -> Index | None:
    """The index in a folder, checked; None where there is none.

    Raises ValueError, with the path, for a file that holds something else.
    """
    return read_record(folder / INDEX, _KIND, VERSION, _checked)


def read_record(
    path: Path, kind: str, version: int, checked: Callable[[dict[str, Any]], T]
) -> T | None:
    """What `checked` makes of the fields of an index of this kind; None where there is no file.

    Raises ValueError, with the path, for a file that holds something else.
    """
    if not path.is_file():
        return None
    values = read_json(path)
    try:
        if values.pop("kind", None) != kind:
            raise ValueError(f"it is no index of a {kind}.")
        if (found := values.pop("version", None)) != version:
            raise ValueError(f"`version` must be {version}, got {shown(found)}.")
        return checked(values)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged: {type(error).__name__}: {shown(str(error))}."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _checked(values: dict[str, Any]) -> Index:
    index = Index(**values)
    check_each(index, _RULES)
    settings = index.settings
    for name in ("data", "latent_cache", "autoencoder"):
        if not isinstance(settings[name], dict):
            raise ValueError(f"`settings.{name}` must be an object of fields.")
    if settings["data"].keys() != set(_DATA_KEYS):
        raise ValueError(f"`settings.data` must have the keys {', '.join(_DATA_KEYS)}.")
    DataConfig(path="", **settings["data"])
    LatentCacheConfig(path=INDEX, **settings["latent_cache"])  # its own rules
    for name in ("names", "class_names"):
        _check_names(name, getattr(index, name))
    if not index.names:
        raise ValueError("`names` must not be empty.")
    expected = len(index.names) if settings["data"]["classes"] else 0
    _check_numbers("labels", index.labels, len(index.class_names))
    if len(index.labels) != expected:
        raise ValueError(f"`labels` must have {expected} entries, got {len(index.labels)}.")
    if not isinstance(index.broken, dict) or not index.broken.keys() <= set(index.names):
        raise ValueError("`broken` must hold reasons by names of videos.")
    frames, channels, height, width = index.latent_shape
    return dataclasses.replace(index, latent_shape=(frames, channels, height, width))


def _check_names(name: str, values: Any) -> None:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"`{name}` must be a list of texts, got {shown(values)}.")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must be all different.")


def _check_numbers(name: str, values: Any, count: int) -> None:
    if not isinstance(values, list) or not all(
        type(value) is int and 0 <= value < count for value in values
    ):
        raise ValueError(f"`{name}` must be whole numbers in 0..{count - 1}, got {shown(values)}.")
