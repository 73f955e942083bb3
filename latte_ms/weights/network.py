"""Weights into a network and out of it, strictly, under the reference's names on disk."""

from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from latte_ms.weights import dtypes, files, finite, mapping
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.mapping import TensorGroup
from latte_ms.weights.maps import NetworkMap
from latte_ms.weights.matching import match
from latte_ms.weights.selection import Selection, advice, report_left_out, select
from latte_ms.weights.tensors import Naming, Spec, Tensors, cast_array

LORA_MATRICES = ("lora_a", "lora_b")  # names of what `adapters` puts beside weights


def load(
    cell: nn.Cell,
    path: str | Path,
    entry: str | None = "ema",
    *,
    variant: str | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    prefix: str = "",
    only_network: bool = False,
) -> tuple[str, ...]:
    """Fill every parameter of `cell` from a file or folder; all of them, or none.

    Args:
        cell: a network of `maps.MAPS`.
        path: see `read`.
        entry: `ema` or `model`; a file of one unnamed state dict serves both.
        variant: of a folder's files, such as "fp16".
        parameters: filled instead of the cell's own, under the cell's names, such as an EMA.
        prefix: what the network's names begin with in the file, such as "network." of a wrapper
            cell; other names are left out.
        only_network: leave out everything that is no part of the network, such as the state of an
            optimizer and the entries of MindSpore's `append_dict`.
    Returns:
        The names that were left out, which are also logged.
    Raises:
        WeightError: the file cannot be read, or its tensors are not exactly those of the cell; one
            message names all tensors that are missing, unexpected or of a wrong shape, and the
            choice that would load the file, where there is one. Or they hold NaN or infinite
            values.
    """
    network_map = mapping.map_of(cell)
    targets = parameters_of(cell, network_map, parameters)
    tensors, left_out = read_selection(path, entry, network_map, variant, prefix, only_network)
    result = match(
        tensors.specs, tensors.naming, specs_of(targets), network_map, sizes_of(cell, network_map)
    )
    choice = advice(list(tensors), network_map, prefix) if result.unexpected else ""
    result.require_exact(path, choice)
    tensors.verify()
    with located(path):
        assign(tensors, result.pairs, targets)
    report_left_out(path, left_out)
    return left_out


def read_selection(
    path: str | Path,
    entry: str | None,
    network_map: NetworkMap,
    variant: str | None = None,
    prefix: str = "",
    only_network: bool = False,
) -> Selection:
    """What the network of `network_map` takes of a file or folder; see `load`."""
    tensors = files.read(path, entry, variant)
    with located(path):
        return select(tensors, network_map, prefix, only_network)


def save(
    cell: nn.Cell,
    path: str | Path,
    entry: str | None = None,
    *,
    dtype: str | None = None,
    variant: str | None = None,
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
        dtype: float32, float16 or bfloat16 instead of the parameters' own dtype.
        variant: is part of the file names of a folder, such as "fp16".
        parameters: written instead of the cell's own, under the cell's names, such as an EMA.
        shard_size: largest size of a folder's files, in bytes.
    """
    network_map = mapping.map_of(cell)
    tensors = contents(cell, files.naming_of(path), parameters)
    if dtype is not None:
        tensors = tensors.cast(dtype)
    entries = {network_map.entry if entry is None else entry: tensors}
    files.write(path, entries, shard_size, variant=variant)


def contents(
    cell: nn.Cell,
    naming: Naming = "disk",
    parameters: Mapping[str, Parameter] | None = None,
) -> Tensors:
    """The parameters of `cell` as they are at each lookup; see `save` for the arguments.

    `naming` tells under whose names and in whose shapes: the reference's, or the network's.
    """
    network_map = mapping.map_of(cell)
    targets = parameters_of(cell, network_map, parameters)
    tensors = Tensors(specs_of(targets), lambda name: _as_array(targets[name]), "memory")
    if naming == "memory":
        return tensors
    return mapping.to_stored_layout(tensors, network_map, sizes_of(cell, network_map))


def assign(
    tensors: Tensors, pairs: Mapping[str, TensorGroup], targets: Mapping[str, Parameter]
) -> None:
    """Fill the parameters of `pairs`, in their own dtypes.

    Raises WeightError, before any parameter is changed, for NaN or infinite values, and where a
    finite one would become infinite. So that nothing is changed then, all is read twice.
    """
    counts = {}
    for source, group in pairs.items():
        array = tensors[source]
        counts[source] = finite.count_non_finite(array)
        if any(_narrows(tensors.specs[source], targets[name]) for name in group.memory):
            _arrays(array, group, targets)
    finite.refuse(counts, tensors)
    for source, group in pairs.items():
        arrays = _arrays(tensors[source], group, targets)
        for name, array in zip(group.memory, arrays, strict=True):
            targets[name].set_data(_as_tensor(array))


def parameters_of(
    cell: nn.Cell, network_map: NetworkMap, parameters: Mapping[str, Parameter] | None
) -> dict[str, Parameter]:
    """Parameters by their names inside the cell, whatever holds the cell."""
    own = dict(cell.parameters_and_names())
    if any(name.endswith(LORA_MATRICES) for name in own):
        raise WeightError(
            "`cell` is trained by LoRA, and holds matrices beside its weights: "
            "`adapters.cells.lora_weights` takes them out."
        )
    if parameters is None:
        return own
    match(specs_of(parameters), "memory", specs_of(own), network_map, {}).require_exact(
        "`parameters`"
    )
    return {name: parameters[name] for name in own}


def sizes_of(cell: nn.Cell, network_map: NetworkMap) -> dict[str, int]:
    """Those fields of the cell's configuration that its map needs."""
    return {field: getattr(cell.config, field) for field in network_map.sizes}


def specs_of(parameters: Mapping[str, Parameter]) -> dict[str, Spec]:
    """Shapes and dtypes of parameters."""
    return {name: _spec(parameter) for name, parameter in parameters.items()}


def _spec(parameter: Parameter) -> Spec:
    return Spec(tuple(parameter.shape), dtypes.BY_MINDSPORE[str(parameter.dtype)].name)


def _narrows(source: Spec, parameter: Parameter) -> bool:
    """Whether storing `source` in the parameter can lose values: in fewer, or other, bits."""
    kept = (source.dtype, "float64") if source.dtype == "float64" else (source.dtype, "float32")
    return _spec(parameter).dtype not in (*kept, "float64")


def _arrays(
    array: np.ndarray, group: TensorGroup, targets: Mapping[str, Parameter]
) -> list[np.ndarray]:
    """A disk tensor as arrays of the shapes and dtypes of its parameters."""
    members = [_spec(targets[name]) for name in group.memory]
    parts = group.transform.split(array, [spec.shape for spec in members])
    return [
        cast_array(name, part, spec.dtype)
        for name, part, spec in zip(group.memory, parts, members, strict=True)
    ]


# MindSpore supports numpy's bfloat16 only where it was built against the installed numpy, so these
# values pass through float32, which represents each of them exactly.
def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype.name == "bfloat16":
        return Tensor(array.astype(np.float32), ms.bfloat16)
    return Tensor(np.ascontiguousarray(array))


def _as_array(parameter: Parameter) -> np.ndarray:
    if parameter.dtype == ms.bfloat16:
        return parameter.astype(ms.float32).asnumpy().astype(dtypes.numpy_dtype("bfloat16"))
    return parameter.asnumpy()
