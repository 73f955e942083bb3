"""Convert weights between PyTorch, safetensors and MindSpore files, in both directions.

    python tools/convert_checkpoint.py --source ucf101.pt --target ucf101.safetensors
    python tools/convert_checkpoint.py --source run/0100000 --target upstream.pt --entry all

The suffix chooses the format: .pt, .pth, .bin (PyTorch), .safetensors, .ckpt (MindSpore); a name
without a suffix is a folder of safetensors; that of a text-to-video checkpoint gets its config.json
and is what diffusers opens as `transformer`. Tensors are converted one at a time, so the memory
needed is that of the largest tensor, and the target appears when it is complete.
"""

import argparse
import math
import re
import sys
from collections import Counter
from pathlib import Path

from latte_ms.progress import progress
from latte_ms.weights import Tensors, WeightError, files
from latte_ms.weights.convert import prepare, refuse_overwrite, write_configuration

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        entries = prepare(
            options.source,
            options.target,
            options.entry,
            options.dtype,
            options.in_channels,
            options.variant,
            options.prefix,
            options.only_network,
        )
        if options.source.resolve() == options.target.resolve():
            raise WeightError("`--target` must not be `--source` itself.")
        if not options.force:
            refuse_overwrite(options.target, entries)
        _convert(entries, options.target, options.shard_size)
        write_configuration(options.source, options.target)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_summary(entries, options.target))
    return 0


def _convert(entries: dict[str, Tensors], target: Path, shard_size: int | None) -> None:
    for tensors in entries.values():
        tensors.verify()
    total = sum(tensors.nbytes for tensors in entries.values())
    with progress(total=total, unit="B", unit_scale=True, desc=target.name) as bar:
        files.write(target, entries, shard_size, bar.update)


def _summary(entries: dict[str, Tensors], target: Path) -> str:
    rows = [("entry", "tensors", "parameters", "bytes", "dtypes")]
    for entry, tensors in entries.items():
        specs = tensors.specs.values()
        dtypes = Counter(spec.dtype for spec in specs)
        rows.append(
            (
                entry or "(unnamed)",
                str(len(tensors)),
                f"{sum(math.prod(spec.shape) for spec in specs):,}",
                f"{tensors.nbytes:,}",
                ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common()),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, f"written: {target}"])


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|)", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 2GB or 500MB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="file or folder to read")
    add("--target", type=Path, required=True, help="file or folder to write")
    add("--entry", default="ema", help="ema (default), model, or all, where the source has several")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="of floating-point tensors")
    add("--force", action="store_true", help="replace the target")
    add("--shard-size", type=_size, help="largest file of a folder, such as 2GB")
    add("--variant", help="of a folder's files, such as fp16")
    add("--prefix", default="", help="what the network's names begin with, such as network.")
    add(
        "--only-network",
        action="store_true",
        help="leave out what is no part of the network, such as the state of an optimizer",
    )
    add("--in-channels", type=int, help="latent channels of a Latte .ckpt (default 4)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
