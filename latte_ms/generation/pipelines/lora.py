"""LoRA in pipelines, with diffusers' methods: adapters of the transformer, by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from latte_ms import adapters, runtime
from latte_ms.adapters import LoraWeights
from latte_ms.adapters.files import FILE, from_arrays
from latte_ms.adapters.state import Adapters, adapters_of
from latte_ms.generation.pipelines import hub
from latte_ms.generation.pipelines.folder import Deferred
from latte_ms.messages import shown
from latte_ms.options import numbers
from latte_ms.weights.errors import located, quoted

Source: TypeAlias = str | Path | LoraWeights | Mapping[str, np.ndarray]
_TRANSFORMER = "transformer"
_scale = numbers(-1e6, 1e6)


class LoraMethods:
    """The methods of a pipeline with a `transformer`; pipelines that share it share its adapters.

    Adapters change the values of the transformer's parameters, which are computed in float32 and
    kept in its parameter dtype, so a step takes as long as without them.
    """

    _components: dict[str, Any]

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Source,
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        hotswap: bool = False,
        **hub_options: Any,
    ) -> None:
        """Load an adapter, which acts alone from now on, with weight 1.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder (see `adapters.read`), an id of
                the hub, or LoRA weights under the names of a file.
            adapter_name: None is `default_0`, or the next number.
            weight_name: the file in the folder or on the hub.
            hotswap: replace the adapter `adapter_name`.
            hub_options: options of huggingface_hub's `snapshot_download`, such as revision.
        Raises:
            ValueError: the file is damaged, does not fit the transformer, or the name is taken.
            OSError: the hub does not have it, or cannot be reached.
        """
        source = pretrained_model_name_or_path_or_dict
        hub.check_options("load_lora_weights", hub_options)
        place = None
        if isinstance(source, str | Path):
            place = _local(source, weight_name, hub_options)
            lora = adapters.read(place, weight_name)
        else:
            lora = source if isinstance(source, LoraWeights) else from_arrays(source)
        with runtime.device_lock, located(place):
            self._adapters().add(lora, adapter_name, replace=hotswap)

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: float | Mapping[str, float] | Sequence[Any] | None = None,
    ) -> None:
        """Let these adapters act together, each with its weight, and no others.

        Args:
            adapter_weights: one for each, or one for all, as a number, as {"transformer": number},
                or as None, which is 1.
        Raises:
            ValueError: a name is not loaded, or a weight is no such number.
        """
        names = _listed(adapter_names)
        given = adapter_weights
        each = list(given) if isinstance(given, list | tuple) else [given] * len(names)
        if len(each) != len(names):
            raise ValueError(
                f"`adapter_weights` ({len(each)}) and `adapter_names` ({len(names)}) must pair up."
            )
        weights = [_weight(value) for value in each]
        with runtime.device_lock:
            self._adapters().activate(names, weights)

    def get_active_adapters(self) -> list[str]:
        """The adapters that were chosen to act."""
        return self._adapters().active

    def get_list_adapters(self) -> dict[str, list[str]]:
        """All adapters, under the name of their component; empty without any."""
        names = self._adapters().names
        return {_TRANSFORMER: names} if names else {}

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget adapters. Raises ValueError for one that is not loaded, or is fused."""
        with runtime.device_lock:
            self._adapters().delete(_listed(adapter_names))

    def unload_lora_weights(self) -> None:
        """Forget all adapters; what is fused stays in the transformer's weights."""
        with runtime.device_lock:
            self._adapters().unload()

    def enable_lora(self) -> None:
        """Let the active adapters act again."""
        with runtime.device_lock:
            self._adapters().enable(True)

    def disable_lora(self) -> None:
        """Let no adapter act, until `enable_lora`."""
        with runtime.device_lock:
            self._adapters().enable(False)

    def fuse_lora(
        self,
        components: Sequence[str] = (_TRANSFORMER,),
        lora_scale: float = 1.0,
        safe_fusing: bool = True,
        adapter_names: Sequence[str] | None = None,
    ) -> None:
        """Fix adapters in the weights: they act whatever is active, and are saved with them.

        Args:
            components: must be ["transformer"].
            lora_scale: multiplies the adapters' weights.
            safe_fusing: must be True: values that are not finite are always refused.
            adapter_names: None: the active ones.
        Raises:
            ValueError: an argument breaks its rule, or weights would not be finite.
        """
        _check_components(components)
        _scale("lora_scale", lora_scale)
        if safe_fusing is not True:
            raise ValueError(
                "`safe_fusing` must be True: weights that are not finite are always refused, "
                f"got {safe_fusing!r}."
            )
        with runtime.device_lock:
            names = None if adapter_names is None else _listed(adapter_names)
            self._adapters().fuse(names, float(lora_scale))

    def unfuse_lora(self, components: Sequence[str] = (_TRANSFORMER,)) -> None:
        """Undo `fuse_lora`: the weights of before come back bit for bit, under active adapters."""
        _check_components(components)
        with runtime.device_lock:
            self._adapters().unfuse()

    @property
    def fused_loras(self) -> set[str]:
        """The adapters that are fused."""
        return set(self._adapters().state.fused)

    @property
    def num_fused_loras(self) -> int:
        """How many adapters are fused."""
        return len(self.fused_loras)

    def save_lora_weights(
        self,
        save_directory: str | Path,
        transformer_lora_layers: LoraWeights | Mapping[str, np.ndarray] | None = None,
        weight_name: str | None = None,
        *,
        adapter_name: str | None = None,
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write an adapter to a folder, as diffusers does.

        Args:
            transformer_lora_layers: LoRA weights to write, such as those of a network that was
                trained (`adapters.cells.lora_weights`), or a state dict; None: a loaded adapter.
            weight_name: None is `pytorch_lora_weights.safetensors`.
            adapter_name: the loaded adapter; None: the only one.
            transformer_lora_adapter_metadata: fields of peft's LoraConfig for a state dict.
            safe_serialization: must be True.
        Raises:
            ValueError: an argument breaks its rule.
        """
        if safe_serialization is not True:
            raise ValueError(
                "`safe_serialization` must be True: weights are written as safetensors, never as "
                f"pickles, got {safe_serialization!r}."
            )
        lora = transformer_lora_layers
        if lora is None:
            lora = self._loaded_adapter(adapter_name)
        elif adapter_name is not None:
            raise ValueError("Give one of `transformer_lora_layers` and `adapter_name`, got both.")
        if not isinstance(lora, LoraWeights):
            lora = from_arrays(lora, transformer_lora_adapter_metadata)
        adapters.write(Path(save_directory) / (weight_name or FILE), lora)

    def _loaded_adapter(self, name: str | None) -> LoraWeights:
        loaded = self._adapters().state.loaded
        if name is None and len(loaded) == 1:
            (name,) = loaded
        if name is None or name not in loaded:
            raise ValueError(
                f"`adapter_name` must be one of the loaded adapters ({quoted(loaded)}), "
                f"got {shown(name)}."
            )
        return loaded[name]

    def _adapters(self) -> Adapters:
        """Those of the transformer, which is not loaded for it."""
        part = self._components[_TRANSFORMER]
        if part is None:
            raise ValueError("`transformer` is None, and LoRA weights are the transformer's.")
        return part.adapters if isinstance(part, Deferred) else adapters_of(part)


def _local(source: str | Path, weight_name: str | None, options: Mapping[str, Any]) -> Path:
    """The file or folder itself, or where its download lies."""
    if Path(source).exists() or not hub.is_id(str(source)):
        return Path(source)
    return hub.download_lora(str(source), weight_name, options)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _weight(value: Any) -> float:
    """One weight of `set_adapters`."""
    if isinstance(value, Mapping):
        if set(value) != {_TRANSFORMER}:
            raise ValueError(
                '`adapter_weights` must be numbers, or objects with the key "transformer", '
                f"got {shown(value)}."
            )
        value = value[_TRANSFORMER]
    if value is None:
        return 1.0
    _scale("adapter_weights", value)
    return float(value)


def _check_components(components: Sequence[str]) -> None:
    if list(components) != [_TRANSFORMER]:
        raise ValueError(f'`components` must be ["transformer"], got {shown(components)}.')
