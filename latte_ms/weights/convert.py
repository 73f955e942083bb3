"""From one weight file to another: entries, names and element types."""

from pathlib import Path

from latte_ms.weights import files, mapping
from latte_ms.weights.entries import UNNAMED
from latte_ms.weights.errors import WeightError, listing
from latte_ms.weights.folder import weight_files
from latte_ms.weights.maps import MAPS, NetworkMap
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
        entry: `ema`, `model`, or `all` entries that the source holds.
        dtype: of floating-point tensors; None keeps each as it is.
        in_channels: of a Latte network that is read from .ckpt, where it cannot be told from the
            tensors; None takes 4, as all published ones have.
        variant: of a folder, such as "fp16".
    Raises:
        WeightError: the source cannot be read, or names cannot be translated.
    """
    if entry == ALL:
        entries = files.read_entries(source, variant)
    else:
        entries = dict([files.read_entry(source, entry, variant)])
    return {
        _entry_name(name, tensors): _translated(tensors, target, dtype, in_channels)
        for name, tensors in entries.items()
    }


def refuse_overwrite(target: str | Path, entries: dict[str, Tensors]) -> None:
    """Raise WeightError if a file that the conversion would write is there."""
    target = Path(target)
    if not target.is_dir():
        if target.exists():
            raise WeightError(f"`--target` exists: {target}; give --force to replace it.")
        return
    present = [file.name for entry in entries for file in weight_files(target, entry)]
    if present:
        raise WeightError(
            f"`--target` {target} holds {listing(present)}; give --force to replace them."
        )


def _entry_name(entry: str, tensors: Tensors) -> str:
    """An unnamed entry under the usual name of its network."""
    table = _table(tensors)
    return table.entry if entry == UNNAMED and table is not None else entry


def _translated(
    tensors: Tensors, target: str | Path, dtype: str | None, in_channels: int | None
) -> Tensors:
    naming = files.naming_of(target)
    if naming != tensors.naming:
        table = _table(tensors)
        if table is None:
            raise WeightError(
                "The names of the tensors belong to no known network "
                f"({listing(list(MAPS))}), so they cannot be translated for {target}."
            )
        sizes = dict(table.sizes)
        if in_channels is not None:
            sizes["in_channels"] = in_channels
        disk = naming == "disk"
        tensors = (
            mapping.to_disk(tensors, table, sizes) if disk else mapping.to_memory(tensors, table)
        )
    return tensors if dtype is None else tensors.cast(dtype)


def _table(tensors: Tensors) -> NetworkMap | None:
    return mapping.map_of_names(tensors)
