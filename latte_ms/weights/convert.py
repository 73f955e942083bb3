"""From one weight file to another: entries, names and dtypes."""

from pathlib import Path

from latte_ms.weights import files, mapping
from latte_ms.weights.entries import UNNAMED
from latte_ms.weights.errors import WeightError, located, quoted
from latte_ms.weights.formats.folder import weight_files
from latte_ms.weights.maps import MAPS, NetworkMap
from latte_ms.weights.pretrained import CONFIG, is_checkpoint, transformer_config
from latte_ms.weights.recorded import read_state
from latte_ms.weights.selection import advice, report_left_out, select_by_names
from latte_ms.weights.tensors import Tensors

ALL = "all"


def prepare(
    source: str | Path,
    target: str | Path,
    entry: str = "ema",
    dtype: str | None = None,
    in_channels: int | None = None,
    variant: str | None = None,
    prefix: str = "",
    only_network: bool = False,
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
        prefix, only_network: see `network.load`; names that are left out are logged.
    Raises:
        WeightError: the source cannot be read, or names cannot be translated.
    """
    if entry == ALL:
        entries = files.read_entries(source, variant)
    else:
        entries = dict([files.read_entry(source, entry, variant)])
    result = {}
    for name, tensors in entries.items():
        with located(source):
            (tensors, left_out), network_map = select_by_names(tensors, prefix, only_network)
        report_left_out(source, left_out)
        if network_map is not None and (name == UNNAMED or _is_alone(entry, network_map)):
            name = network_map.entry  # the usual one of this network
        tensors = _translated(tensors, network_map, target, in_channels)
        result[name] = tensors if dtype is None else tensors.cast(dtype)
    return result


def _is_alone(entry: str, network_map: NetworkMap) -> bool:
    """Whether an entry is written as diffusers writes it, without a name."""
    return entry != ALL and network_map.entry == UNNAMED


def write_configuration(source: str | Path, target: str | Path) -> None:
    """Write the config.json of a text-to-video network into the folder `target` of its weights.

    Nothing is written unless `source` is a checkpoint of a training run of such a network, whole.
    """
    state = read_state(source) if is_checkpoint(source) else None
    if state is None or state.lora is not None:
        return
    if state.identity.get("model") == "LatteT2V" and Path(target).is_dir():
        transformer_config(source).to_json(Path(target) / CONFIG)


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


def refuse_removal(target: str | Path, *inputs: Path) -> None:
    """Raise WeightError if one of the `inputs` is, or is in, the folder that `target` replaces."""
    for path in inputs:
        if is_within(path, target):
            raise WeightError(f"`--target` must not hold what is read, {path}, got {target}.")


def is_within(path: str | Path, folder: str | Path) -> bool:
    """Whether `path` is `folder`, or is in it."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _translated(
    tensors: Tensors,
    network_map: NetworkMap | None,
    target: str | Path,
    in_channels: int | None,
) -> Tensors:
    """Tensors under the names that `target` holds."""
    naming = files.naming_of(target)
    if naming == tensors.naming:
        return tensors
    if network_map is None:
        raise WeightError(
            "The names of the tensors belong to no known network "
            f"({quoted(MAPS)}), so they cannot be translated for {target}. "
            f"{advice(tensors)}".rstrip()
        )
    if naming == "memory":
        return mapping.to_network_layout(tensors, network_map)
    sizes = dict(network_map.sizes)
    if in_channels is not None:
        sizes["in_channels"] = in_channels
    return mapping.to_stored_layout(tensors, network_map, sizes)
