"""LoRA files, both ways: diffusers' `pytorch_lora_weights.safetensors`, and peft's folder."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.adapters import names
from latte_ms.adapters.scaling import Scaling, config_of
from latte_ms.adapters.weights import LoraWeights, LowRank
from latte_ms.atomic import atomic_folder
from latte_ms.config import read_json, write_json
from latte_ms.messages import one_line, shown
from latte_ms.weights import dtypes, files, tensors
from latte_ms.weights.errors import WeightError, located, quoted
from latte_ms.weights.formats.safetensors import read_metadata, read_safetensors, write_safetensors
from latte_ms.weights.tensors import Tensors

logger = logging.getLogger(__name__)
FILE = "pytorch_lora_weights.safetensors"  # diffusers'
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_CHECKPOINT = "ema.safetensors"  # of a training run
_METADATA = "lora_adapter_metadata"
_PREFIX = "transformer."  # the part of a pipeline that the weights belong to
_PEFT_PREFIX = "base_model.model."


def read(path: str | Path, weight_name: str | None = None) -> LoraWeights:
    """The LoRA weights in a file or folder.

    Their modules are those of the file: `weights.fitted` says whether a network has them. Alphas
    are those of the file's configuration, or its own tensors, or else the ranks. Parts of text
    encoders are left out; DoRA's magnitudes are dropped with a warning, as diffusers drops them.

    Args:
        path: a file, or a folder with `pytorch_lora_weights.safetensors`, a folder of peft
            (`adapter_config.json`, `adapter_model.safetensors`), a checkpoint of a training run, or
            a folder with a single .safetensors.
        weight_name: the file in a folder.
    Raises:
        WeightError: there is no such file, it is damaged, or it holds something else.
    """
    file = find(Path(path), weight_name)
    with located(file):
        config = None
        if (beside := file.parent / PEFT_CONFIG).is_file() and file.name.startswith("adapter_"):
            config = read_json(beside)
        elif file.suffix == ".safetensors":
            config = _metadata(file)
        stored = read_safetensors(file) if file.suffix == ".safetensors" else files.read(file)
        lora = from_arrays(stored, config)
        stored.verify()
    return lora


def find(path: Path, weight_name: str | None = None) -> Path:
    """The file that `read` reads. Raises WeightError where there is none, or several."""
    if weight_name is not None:
        path = path / weight_name
        if not path.is_file():
            raise WeightError(
                f"`weight_name` (={shown(weight_name)}) is not a file in {path.parent}."
            )
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightError(f"LoRA weights must be a file or a folder, got {path}.")
    for name in (FILE, PEFT_FILE, _CHECKPOINT):
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise WeightError(
            f"{path} must hold {FILE}, {PEFT_FILE} or a single .safetensors; it holds "
            f"{quoted(file.name for file in found[:4])}. `weight_name` chooses a file."
        )
    return found[0]


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None
) -> LoraWeights:
    """LoRA weights of a state dict in any of the spellings of files.

    Args:
        arrays: by the names of `names`.
        config: fields of peft's LoraConfig.
    Raises:
        WeightError: a tensor is no part of LoRA weights, or a part of a module is missing.
    """
    found: dict[str, dict[str, str]] = {}
    for name, part in names.parse(arrays).items():
        found.setdefault(part.module, {})[part.kind] = name
    if not found:
        raise WeightError("it holds no LoRA weights of a transformer.")
    if any("dora" in kinds for kinds in found.values()):
        logger.warning("DoRA is not supported: its magnitudes are dropped, the rest is used.")
    scaling = Scaling.from_config(config or {})
    scaling.check_names(found)
    changes = {}
    for module, kinds in found.items():
        missing = [kind.upper() for kind in ("a", "b") if kind not in kinds]
        if missing:
            raise WeightError(f"`{module}` lacks its matrix {missing[0]}.")
        a, b = _floats(arrays, kinds["a"]), _floats(arrays, kinds["b"])
        alpha = scaling.of(module, len(a) if a.ndim else 0)
        if config is None and "alpha" in kinds:
            alpha = _alpha(arrays, kinds["alpha"])
        with located(f"`{module}`"):
            changes[module] = LowRank(a, b, alpha)
    return LoraWeights(changes)


def to_tensors(lora: LoraWeights, prefix: str = _PREFIX) -> Tensors:
    """The state dict of LoRA weights, under diffusers' names."""
    arrays = {}
    for module, change in lora.items():
        arrays[f"{prefix}{module}.lora_A.weight"] = change.a
        arrays[f"{prefix}{module}.lora_B.weight"] = change.b
    return tensors.from_arrays(arrays)


def write(path: str | Path, lora: LoraWeights, dtype: str | None = None) -> None:
    """Write diffusers' file, which is complete or absent.

    Args:
        path: a .safetensors; such as `pytorch_lora_weights.safetensors`.
        dtype: float32, float16 or bfloat16 instead of the weights' own.
    """
    config = {_PREFIX + name: value for name, value in config_of(lora).items()}
    metadata = {_METADATA: json.dumps(config, indent=2, sort_keys=True)}
    write_safetensors(Path(path), _cast(to_tensors(lora), dtype), metadata=metadata)


def write_peft(folder: str | Path, lora: LoraWeights, dtype: str | None = None) -> None:
    """Write peft's folder, which is complete or absent; what stood there is replaced."""
    config = {
        **config_of(lora),
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    stored = _cast(to_tensors(lora, _PEFT_PREFIX), dtype)
    with atomic_folder(folder) as partial:
        write_safetensors(partial / PEFT_FILE, stored)
        write_json(partial / PEFT_CONFIG, config)


def _cast(stored: Tensors, dtype: str | None) -> Tensors:
    return stored if dtype is None else stored.cast(dtype)


def _metadata(file: Path) -> dict[str, Any] | None:
    """The configuration that diffusers keeps in the file's header; None without one."""
    text = read_metadata(file).get(_METADATA)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightError(f"its `{_METADATA}` is damaged ({one_line(error, 80)}).") from error
    if not isinstance(values, dict):
        raise WeightError(f"its `{_METADATA}` must be an object, got {shown(values)}.")
    # DoRA's magnitudes are dropped, and with them what says that there are any.
    own = {k.removeprefix(_PREFIX): v for k, v in values.items() if k.startswith(_PREFIX)}
    return {name: value for name, value in own.items() if name != "use_dora"}


def _floats(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    array = np.asarray(arrays[name])
    row = dtypes.BY_NAME.get(array.dtype.name)
    if row is None or not row.floating:
        raise WeightError(f"`{name}` must hold floating-point numbers, got {array.dtype.name}.")
    return array


def _alpha(arrays: Mapping[str, np.ndarray], name: str) -> float:
    array = _floats(arrays, name)
    if array.size != 1:
        raise WeightError(f"`{name}` must be a single number, got the shape {array.shape}.")
    return float(array.reshape(()))
