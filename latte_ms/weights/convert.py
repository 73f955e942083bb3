"""From one weight file to another: entries, names and dtypes."""

from pathlib import Path

from latte_ms.weights import files, mapping
from latte_ms.weights.entries import UNNAMED
from latte_ms.weights.errors import WeightError, quoted
from latte_ms.weights.formats.folder import weight_files
from latte_ms.weights.maps import MAPS
from latte_ms.weights.tensors import Tensors

ALL = "all"


def prepare(
    source: str | Path,
    target: str | Path,
    entry: str = "ema",
    dtype: str | None = None,
    in_channels: int | None = None,
    variant: str | None = None,
) -> dict[str, Tensors]:
    """What `files.write` has to write under `target`; no tensor is read yet.

    Args:
        source: see `files.read`.
        target: its suffix decides about names: MindSpore's .ckpt holds the network's own.
        entry: `ema`, `model`, or `all` entries of the source.
        dtype: of floating-point tensors; None leaves each as it is.
        in_channels: of a Latte network that is read from .ckpt, whose tensors do not tell it; None
            takes 4, as all published ones have.
        variant: of a folder, such as "fp16".
    Raises:
        WeightError: the source cannot be read, or names cannot be translated.
    """
    if entry == ALL:
        entries = files.read_entries(source, variant)
    else:
        entries = dict([files.read_entry(source, entry, variant)])
    result = {}
    for name, tensors in entries.items():
        network_map = mapping.map_of_names(tensors)
        if name == UNNAMED and network_map is not None:
            name = network_map.entry  # the usual one of this network
        tensors = _translated(tensors, target, in_channels)
        result[name] = tensors if dtype is None else tensors.cast(dtype)
    return result


def refuse_overwrite(target: str | Path, entries: dict[str, Tensors]) -> None:
    """Raise WeightError if a file that the conversion would write exists."""
    target = Path(target)
    if not target.is_dir():
        if target.exists():
            raise WeightError(f"`--target` exists: {target}; give --force to replace it.")
        return
    present = [file.name for entry in entries for file in weight_files(target, entry)]
    if present:
        raise WeightError(
            f"`--target` {target} holds {quoted(present)}; give --force to replace them."
        )


def _translated(tensors: Tensors, target: str | Path, in_channels: int | None) -> Tensors:
    """Tensors under the names that `target` holds."""
    naming = files.naming_of(target)
    if naming == tensors.naming:
        return tensors
    network_map = mapping.map_of_names(tensors)
    if network_map is None:
        raise WeightError(
            "The names of the tensors belong to no known network "
            f"({quoted(MAPS)}), so they cannot be translated for {target}."
        )
    if naming == "memory":
        return mapping.to_memory(tensors, network_map)
    sizes = dict(network_map.sizes)
    if in_channels is not None:
        sizes["in_channels"] = in_channels
    return mapping.to_disk(tensors, network_map, sizes)
