"""Weights into a network and out of it, strictly, under the reference's names on disk."""

from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from latte_ms.weights import dtypes, files, mapping
from latte_ms.weights.errors import WeightError, fit_report
from latte_ms.weights.maps import NetworkMap
from latte_ms.weights.tensors import Spec, Tensors, cast_array
from latte_ms.weights.transforms import TRANSFORMS


def load(
    cell: nn.Cell,
    path: str | Path,
    entry: str | None = "ema",
    *,
    variant: str | None = None,
    parameters: Mapping[str, Parameter] | None = None,
) -> None:
    """Fill every parameter of `cell` from a file or folder; all of them, or none.

    Args:
        cell: a network of `maps.MAPS`.
        path: see `read`.
        entry: `ema` or `model`; a file of one unnamed state dict serves both.
        variant: of a folder's files, such as "fp16".
        parameters: filled instead of the cell's own, under the cell's names: a running average.
    Raises:
        WeightError: the file cannot be read, or its tensors are not exactly those of the cell; one
            message names all keys that are missing, unexpected or of a wrong shape.
    """
    table = mapping.map_of(cell)
    targets = _targets(cell, parameters)
    tensors = files.read(path, entry, variant)
    groups = _groups(table, tensors, targets)
    sources = _sources(table, tensors, groups)
    _check_fit(groups, sources, tensors, targets, _sizes(cell, table), path)
    tensors.verify()
    for disk, group in groups.items():  # values that would not survive the change of type
        if any(_narrows(tensors.specs[sources[disk]], targets[m]) for m in group.memory):
            _arrays(tensors[sources[disk]], group, targets)
    for disk, group in groups.items():
        arrays = _arrays(tensors[sources[disk]], group, targets)
        for member, array in zip(group.memory, arrays, strict=True):
            targets[member].set_data(_as_tensor(array))


def save(
    cell: nn.Cell,
    path: str | Path,
    entry: str | None = None,
    *,
    dtype: str | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    shard_size: int | None = None,
) -> None:
    """Write the parameters of `cell` under the reference's names and shapes.

    The suffix of `path` chooses the format: .pt, .pth, .bin, .safetensors, .ckpt (the network's own
    names, for `mindspore.load_checkpoint`); no suffix means a folder of safetensors.

    Args:
        cell: a network of `maps.MAPS`.
        path: replaced when the new file is complete.
        entry: the entry of a .pt, or the file of a folder (`ema` is ema.safetensors); "" for a bare
            state dict; None for the network's usual one.
        dtype: float32, float16 or bfloat16 instead of the parameters' own type.
        parameters: written instead of the cell's own, under the cell's names: a running average.
        shard_size: largest size of a folder's files, in bytes.
    """
    table = mapping.map_of(cell)
    targets = _targets(cell, parameters)
    specs = {name: _spec(parameter) for name, parameter in targets.items()}
    tensors = Tensors(specs, lambda name: _as_array(targets[name]), "memory")
    if files.naming_of(path) == "disk":
        tensors = mapping.to_disk(tensors, table, _sizes(cell, table))
    if dtype is not None:
        tensors = tensors.cast(dtype)
    files.write(path, {table.entry if entry is None else entry: tensors}, shard_size)


def _targets(cell: nn.Cell, parameters: Mapping[str, Parameter] | None) -> dict[str, Parameter]:
    """Parameters by their names inside the cell, whatever holds the cell."""
    own = dict(cell.parameters_and_names())
    if parameters is None:
        return own
    wrong = {
        name: f"shape {parameters[name].shape} instead of {own[name].shape}"
        for name in own
        if name in parameters and parameters[name].shape != own[name].shape
    }
    missing = [name for name in own if name not in parameters]
    unexpected = [name for name in parameters if name not in own]
    report = fit_report(missing, unexpected, wrong, own, parameters)
    if report:
        raise WeightError(f"`parameters` must be those of the cell:\n{report}")
    return {name: parameters[name] for name in own}


def _sizes(cell: nn.Cell, table: NetworkMap) -> dict[str, int]:
    return {field: getattr(cell.config, field) for field in table.sizes}


def _groups(
    table: NetworkMap, tensors: Tensors, targets: Mapping[str, Parameter]
) -> dict[str, mapping.Group]:
    if tensors.naming == "disk":
        return mapping.by_memory(table, targets)
    return {name: mapping.Group(name, (name,), TRANSFORMS["same"]) for name in targets}


def _sources(
    table: NetworkMap, tensors: Tensors, groups: Mapping[str, mapping.Group]
) -> dict[str, str]:
    """The file's spelling of the names that are wanted and there."""
    names = {name: name for name in tensors}
    if tensors.naming == "disk":
        names = {name: group.disk for name, group in mapping.by_disk(table, tensors).items()}
    return {disk: name for name, disk in names.items() if disk in groups}


def _check_fit(
    groups: Mapping[str, mapping.Group],
    sources: Mapping[str, str],
    tensors: Tensors,
    targets: Mapping[str, Parameter],
    sizes: Mapping[str, int],
    path: str | Path,
) -> None:
    """Raise one WeightError for all tensors that do not fit."""
    wrong = {}
    for disk, name in sources.items():
        group, spec = groups[disk], tensors.specs[name]
        shapes = group.transform.disk_shapes([targets[m].shape for m in group.memory], sizes)
        if spec.shape not in shapes:
            wrong[name] = f"shape {spec.shape} instead of {shapes[0]}"
        elif _is_floating(spec) != _is_floating(_spec(targets[group.memory[0]])):
            wrong[name] = f"type {spec.dtype} for a parameter of another kind"
    missing = [disk for disk in groups if disk not in sources]
    unexpected = [name for name in tensors if name not in set(sources.values())]
    report = fit_report(missing, unexpected, wrong, groups, list(tensors))
    if report:
        raise WeightError(
            f"{path} does not fit the network ({len(missing)} missing, {len(unexpected)} "
            f"unexpected, {len(wrong)} wrong of {len(groups)} tensors):\n{report}"
        )


def _spec(parameter: Parameter) -> Spec:
    return Spec(tuple(parameter.shape), dtypes.BY_MINDSPORE[str(parameter.dtype)].name)


def _is_floating(spec: Spec) -> bool:
    return dtypes.BY_NAME[spec.dtype].floating


def _narrows(source: Spec, parameter: Parameter) -> bool:
    """Whether values can be lost: into any other type but a float32 or a wider one."""
    return _spec(parameter).dtype not in (source.dtype, "float32", "float64")


def _arrays(
    array: np.ndarray, group: mapping.Group, targets: Mapping[str, Parameter]
) -> list[np.ndarray]:
    """A disk tensor as arrays of the shapes and types of its parameters."""
    members = [_spec(targets[name]) for name in group.memory]
    parts = group.transform.split(array, [spec.shape for spec in members])
    return [
        cast_array(name, part, spec.dtype)
        for name, part, spec in zip(group.memory, parts, members, strict=True)
    ]


# MindSpore knows numpy's bfloat16 only where it was built against the numpy installed, so these
# values travel as float32, which holds each of them exactly.
def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype.name == "bfloat16":
        return Tensor(array.astype(np.float32), ms.bfloat16)
    return Tensor(np.ascontiguousarray(array))


def _as_array(parameter: Parameter) -> np.ndarray:
    if parameter.dtype == ms.bfloat16:
        return parameter.astype(ms.float32).asnumpy().astype(dtypes.numpy_dtype("bfloat16"))
    return parameter.asnumpy()
