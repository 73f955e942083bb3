"""Check a dataset before training: which videos are readable, their sizes, numbers per class.

    python tools/check_data.py FOLDER [classes=true num_frames=16 frame_interval=3 ...]
    python tools/check_data.py --config configs/shapes/train.yaml [path=... ...]
    python tools/check_data.py FOLDER kind=frames --list train_list.txt

The keys are those of the `data` section of a configuration. Every video is decoded once. Exit
status: 0 all videos are usable, 1 some are not, 2 none is, or the arguments are wrong. `--list`
writes the images of the usable folders as upstream's joint training reads them, a line
`video/image` each.
"""

import argparse
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.config import from_dict, read_recipe
from latte_ms.data.datasets import DataConfig, list_videos
from latte_ms.data.frame_folder import list_images
from latte_ms.data.survey import BROKEN, SHORT, USABLE, Finding, survey
from latte_ms.progress import progress


def main() -> int:
    args = parse_arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files in any encoding
    try:
        config = read_config(args)
        if args.list is not None:
            check_list(args.list, config)
        listing, _ = list_videos(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = survey(config, listing, args.num_workers)
    findings = list(progress(results, total=len(listing.sources), unit="video", desc="checking"))
    print_report(config, listing.class_names, findings)
    if args.list is not None:
        try:
            print(f"{write_list(args.list, config, findings)} images listed in {args.list}")
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    usable = sum(finding.status == USABLE for finding in findings)
    return 2 if not usable else int(usable < len(findings))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="folder of videos; or use --config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--config", help="a configuration with a section `data`")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--list", type=Path, metavar="FILE", help="file to write, of kind=frames")
    args = parser.parse_args()
    if args.folder and "=" in args.folder and args.config:
        args.overrides.insert(0, args.folder)
        args.folder = None
    if bool(args.folder) == bool(args.config):
        parser.error("give either a folder or --config")
    if args.num_workers < 1:
        parser.error(f"--num-workers must be at least 1, got {args.num_workers}")
    return args


def read_config(args: argparse.Namespace) -> DataConfig:
    """The `data` section of --config, or the defaults with the folder, under the overrides."""
    overrides = [f"data.{item.removeprefix('data.')}" for item in args.overrides]
    section = read_recipe(args.config, overrides).get("data", {})
    if not isinstance(section, dict) or (args.config and not section):
        raise ValueError(f"`--config` (={args.config}) has no section `data`.")
    return from_dict(DataConfig, section if args.config else {"path": args.folder, **section})


def check_list(target: Path, config: DataConfig) -> None:
    """Raise ValueError unless a list of images can be written to `target`."""
    if config.kind != "frames":
        raise ValueError(
            f"`--list` needs kind=frames, got {config.kind}: convert_videos.py makes folders of "
            "images of video files."
        )
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ValueError(f"`--list` must be a file in a folder that exists, got {target}.")


def write_list(target: Path, config: DataConfig, findings: list[Finding]) -> int:
    """Write the images of all usable folders, relative to the folder of the data; their number."""
    root = Path(config.path).expanduser()
    folders = [finding.path for finding in findings if finding.status == USABLE]
    names = [p.relative_to(root).as_posix() for folder in folders for p in list_images(folder)]
    wrong = [name for name in names if "\n" in name or "\r" in name]
    if wrong:
        raise ValueError(f"`--list` has a name per line, so names cannot have two: {wrong[0]!r}.")
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
    return len(names)


def print_report(config: DataConfig, names: list[str], findings: list[Finding]) -> None:
    for finding in findings:
        if finding.status != USABLE:
            print(f"{finding.status}: {finding.reason}")
    counts = Counter(finding.status for finding in findings)
    print(", ".join(f"{counts[status]} {status}" for status in (USABLE, SHORT, BROKEN)))
    readable = [finding for finding in findings if finding.status != BROKEN]
    if readable:
        lengths = [finding.num_frames for finding in readable]
        print(f"frames: {min(lengths)} to {max(lengths)}, median {np.median(lengths):g}")
        print(f"sizes: {most_common(f'{f.width}x{f.height}' for f in readable)}")
        print(f"frames per second: {most_common(f'{f.fps:.4g}' for f in readable if f.fps)}")
        small = sum(min(f.width, f.height) < config.image_size for f in readable)
        if small:
            print(f"{small} are smaller than image_size {config.image_size}: they are enlarged")
    if names:
        print_classes(names, findings)


def print_classes(names: list[str], findings: list[Finding]) -> None:
    usable = Counter(finding.label for finding in findings if finding.status == USABLE)
    total = Counter(finding.label for finding in findings)
    print(f"{len(names)} classes:")
    for label, name in enumerate(names):
        note = "" if usable[label] else "   <- nothing to train on"
        print(f"  {label:>4} {name:<30} {usable[label]:>6} of {total[label]}{note}")


def most_common(values: Iterable[str], limit: int = 5) -> str:
    counts = Counter(values)
    shown = [f"{value} ({count})" for value, count in counts.most_common(limit)]
    rest = len(counts) - len(shown)
    return (", ".join(shown) or "unknown") + (f" and {rest} others" if rest else "")


if __name__ == "__main__":
    sys.exit(main())
