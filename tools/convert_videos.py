"""Convert a data set of video files to folders of images, one per frame, or back to mp4 files.

    python tools/convert_videos.py to-frames VIDEOS FRAMES [--format jpg --quality 95]
    python tools/convert_videos.py to-videos FRAMES VIDEOS [--fps 25 --crf 8]

Folders of classes, and others, are kept. What is there already is left as it is, so running the
same command again goes on. Exit status: 0 all are converted, 1 some cannot be, 2 none can be, the
arguments are wrong, or the disk is full.
"""

import argparse
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from latte_ms.atomic import WriteError, remove_partial
from latte_ms.data.conversion import FORMATS, files_of, folders_of, to_frames, to_video
from latte_ms.data.video_file import DecodeError
from latte_ms.media import MP4_MAX_FPS
from latte_ms.parallel.lock import FolderLock
from latte_ms.progress import progress

Convert = Callable[[Path, Path], bool]


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files in any encoding
    convert: Convert
    try:
        if args.direction == "to-frames":
            pairs = folders_of(args.source, args.target)
            convert = partial(to_frames, image_format=args.format, quality=args.quality)
        else:
            pairs = files_of(args.source, args.target)
            convert = partial(to_video, fps=args.fps, crf=args.crf)
        with FolderLock(args.target, "TARGET"):
            return convert_all(pairs, convert, args.num_workers)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-workers", type=int, default=2, help="videos at a time")
    directions = parser.add_subparsers(dest="direction", required=True)
    frames = directions.add_parser("to-frames", help="video files to folders of images")
    frames.add_argument("--format", choices=FORMATS, default="jpg")
    frames.add_argument("--quality", type=int, default=95, help="of jpg, 1 to 95")
    videos = directions.add_parser("to-videos", help="folders of images to mp4 files")
    videos.add_argument("--fps", type=float, help="default: what to-frames has recorded")
    videos.add_argument("--crf", type=int, default=8, help="x264's rate factor, 0 to 51")
    for direction in (frames, videos):
        direction.add_argument("source", type=Path, metavar="SOURCE")
        direction.add_argument("target", type=Path, metavar="TARGET")
    args = parser.parse_args(arguments)
    limits = {"num_workers": (1, 1024), "quality": (1, 95), "crf": (0, 51)}
    for name, (least, most) in limits.items():
        value = getattr(args, name, least)
        if not least <= value <= most:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be {least} to {most}, got {value}")
    fps = getattr(args, "fps", None)
    if fps is not None and not 0 < fps <= MP4_MAX_FPS:
        parser.error(f"--fps must be above 0 and at most {MP4_MAX_FPS}, got {fps}")
    return args


def convert_all(pairs: dict[Path, Path], convert: Convert, num_workers: int) -> int:
    """Convert each pair of source and target; returns the exit status."""
    for folder in {target.parent for target in pairs.values()}:
        remove_partial(folder)
    failed: list[str] = []
    with ThreadPoolExecutor(num_workers) as pool:
        results = pool.map(partial(attempt, convert), pairs, pairs.values())
        try:
            done = list(progress(results, total=len(pairs), unit="video", desc="converting"))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [result for result in done if isinstance(result, str)]
    for message in failed:
        print(f"not converted: {message}")
    made = sum(result is True for result in done)
    print(f"{made} converted, {len(done) - made - len(failed)} were there, {len(failed)} failed")
    return 0 if not failed else 2 if len(failed) == len(done) else 1


def attempt(convert: Convert, source: Path, target: Path) -> bool | str:
    """What `convert` returns, or why this one cannot be converted. Raises WriteError."""
    try:
        return convert(source, target)
    except WriteError:
        raise
    except (DecodeError, ValueError, OSError) as error:
        message = str(error)
        return message if str(source) in message else f"{source}: {message}"


if __name__ == "__main__":
    sys.exit(main())
