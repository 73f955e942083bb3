"""Merge LoRA weights into the weights that they were trained for.

    python tools/merge_lora.py --source Latte-1 --lora pytorch_lora_weights.safetensors \
        --target merged
    python tools/merge_lora.py --source ucf101.pt --lora first --lora second --scale 0.7 0.3 \
        --target merged.safetensors

A pipeline's folder, or a transformer's with its config.json, becomes a folder of the same kind,
which diffusers loads: everything else in it is copied. Any other file or folder of weights becomes
what the suffix of the target says, as in tools/convert_checkpoint.py. Tensors are merged one at a
time, in float32, and keep their dtype; the target appears when it is complete.
"""

import argparse
import shutil
import sys
from pathlib import Path

from latte_ms import adapters
from latte_ms.adapters.merging import Scaled, merged
from latte_ms.adapters.weights import fitted, modules
from latte_ms.atomic import atomic_folder
from latte_ms.progress import progress
from latte_ms.weights import Tensors, WeightError, files
from latte_ms.weights.convert import is_within, prepare, refuse_overwrite, refuse_removal
from latte_ms.weights.errors import located
from latte_ms.weights.file_names import parse

_INDEX, _CONFIG, _TRANSFORMER = "model_index.json", "config.json", "transformer"


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        scales = _scales(options.scale, len(options.lora))
        part = _network_folder(options.source)
        target = options.target
        _check_target(options, replaces=part is not None)
        entries = prepare(part or options.source, target, options.entry, variant=options.variant)
        paths = list(zip(options.lora, scales, strict=True))
        entries = {name: _with_lora(tensors, paths) for name, tensors in entries.items()}
        if part is not None:
            _write_folder(options, part, entries)
        else:
            if not options.force:
                refuse_overwrite(target, entries)
            _write(target, entries, None)
    except (WeightError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {target}")
    return 0


def _check_target(options: argparse.Namespace, replaces: bool) -> None:
    """Raise WeightError for a target of the wrong kind, or one that would remove what is read.

    `replaces`: it is a folder that is replaced as a whole, a copy of `--source`.
    """
    source, target = options.source, options.target
    if target.resolve() in (path.resolve() for path in (source, *options.lora)):
        raise WeightError(f"`--target` must not be `--source` or a `--lora` itself, got {target}.")
    if replaces:
        if target.suffix in files.FORMATS:
            raise WeightError(f"`--target` must be a folder, as `--source` is, got {target}.")
        if is_within(target, source):
            raise WeightError(f"`--target` must not lie in `--source` (={source}), got {target}.")
        refuse_removal(target, source, *options.lora)
    if files.naming_of(target) != "disk":
        raise WeightError(f"`--target` must not be a .ckpt: convert the result, got {target}.")


def _network_folder(source: Path) -> Path | None:
    """The folder of the transformer in diffusers' layout; None for weights of another form."""
    part = source / _TRANSFORMER if (source / _INDEX).is_file() else source
    return part if (part / _CONFIG).is_file() else None


def _with_lora(tensors: Tensors, paths: list[tuple[Path, float]]) -> Tensors:
    shapes, chosen = modules(tensors.specs), list[Scaled]()
    for path, scale in paths:
        lora = adapters.read(path)
        with located(path):
            chosen.append((fitted(lora, shapes), scale))
    return merged(tensors, chosen)


def _write_folder(options: argparse.Namespace, part: Path, entries: dict[str, Tensors]) -> None:
    """A copy of `--source` with other weights in its folder `part`."""
    source, target = options.source, options.target
    if target.exists() and not options.force:
        raise WeightError(f"`--target` exists: {target}; give --force to replace it.")

    def weights_of_part(folder: str, names: list[str]) -> list[str]:
        inside = Path(folder).resolve() == part.resolve()
        return [name for name in names if inside and parse(name) is not None]

    with atomic_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=weights_of_part)
        _write(partial / part.relative_to(source), entries, options.variant)


def _write(target: Path, entries: dict[str, Tensors], variant: str | None) -> None:
    for tensors in entries.values():
        tensors.verify()
    total = sum(tensors.nbytes for tensors in entries.values())
    with progress(total=total, unit="B", unit_scale=True, desc="merging") as bar:
        files.write(target, entries, progress=bar.update, variant=variant)


def _scales(given: list[float], count: int) -> list[float]:
    """One for each `--lora`."""
    scales = given * count if len(given) == 1 else given
    if len(scales) != count:
        raise WeightError(f"`--scale` must be one number, or one for each --lora, got {given}.")
    return scales


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="weights, or a folder in diffusers' layout")
    add("--lora", type=Path, required=True, action="append", help="file or folder; several times")
    add("--scale", type=float, nargs="+", default=[1.0], help="one, or one for each --lora")
    add("--target", type=Path, required=True, help="file or folder to write")
    add("--entry", default="ema", help="ema (default), model, or all, where the source has several")
    add("--variant", help="of a folder's files, such as fp16")
    add("--force", action="store_true", help="replace the target")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
