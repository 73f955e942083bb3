"""Write the moving-shapes video set: python examples/moving_shapes/make_shapes.py --target DIR."""

import argparse
import re
import sys
from pathlib import Path

from examples.moving_shapes.shapes import (
    CAPTION_FILE,
    UNSEEN_FILE,
    class_names,
    write_shapes,
)
from latte_ms.atomic import remove_partial
from latte_ms.progress import progress

_VIDEO = re.compile(r"\d{5,}\.mp4")


def main() -> int:
    args = parse_arguments()
    target = Path(args.target)
    if target.exists() and not target.is_dir():
        return fail(f"`--target` is a file: {target}.")
    if target.is_dir() and any(target.iterdir()):
        if not args.force:
            return fail(f"`--target` is not empty: {target}. Use --force to replace the set in it.")
        remove_set(target)
    num_classes = len(class_names(args.combinations))
    total = args.videos_per_class * num_classes
    files = write_shapes(
        target,
        args.videos_per_class,
        args.seed,
        args.size,
        args.num_frames,
        args.num_workers,
        args.spread,
        args.hold_out,
        args.combinations,
    )
    try:
        for _ in progress(files, total=total, unit="video", desc="shapes"):
            pass
    except OSError as error:
        return fail(str(error))
    print(f"{total} videos in {num_classes} classes and {CAPTION_FILE} under {target}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder to write to")
    parser.add_argument("--videos-per-class", type=positive, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=positive, default=64, help="side in pixels, even")
    parser.add_argument("--num-frames", type=positive, default=16)
    parser.add_argument(
        "--spread", type=float, default=1.0, help="1: paths anywhere, 0: all through the middle"
    )
    parser.add_argument(
        "--combinations",
        action="store_true",
        help="a class per combination of direction, colour and shape, 192 in all, not 8 directions",
    )
    parser.add_argument(
        "--hold-out",
        action="store_true",
        help=f"leave a third of the combinations of colour, shape and direction for a test, and"
        f" write their prompts to {UNSEEN_FILE}",
    )
    parser.add_argument("--num-workers", type=positive, default=2)
    parser.add_argument("--force", action="store_true", help="replace the set in the folder")
    args = parser.parse_args()
    if args.size < 16 or args.size % 2:
        parser.error(f"--size must be even and at least 16, got {args.size}")
    if not 0.0 <= args.spread <= 1.0:
        parser.error(f"--spread must be in 0..1, got {args.spread}")
    if args.num_frames < 2:
        parser.error(f"--num-frames must be at least 2, got {args.num_frames}")
    if args.hold_out and args.combinations:
        parser.error("--hold-out leaves out what --combinations makes classes: choose one")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    return args


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def remove_set(target: Path) -> None:
    """Remove only what this script writes; first the captions, which mark a complete set."""
    for name in (CAPTION_FILE, UNSEEN_FILE):
        (target / name).unlink(missing_ok=True)
    names = [*class_names(), *class_names(combinations=True)]
    for folder in (target / name for name in names if (target / name).is_dir()):
        remove_partial(folder)  # of a run that was killed
        for path in [path for path in folder.iterdir() if _VIDEO.fullmatch(path.name)]:
            path.unlink()


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
