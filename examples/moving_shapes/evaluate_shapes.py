"""Judge moving-shapes videos, real or generated, without a network.

    python examples/moving_shapes/evaluate_shapes.py FOLDER [--combinations] [--minimum 0.9]
        [--constant 0.9] [--real FOLDER] [--json FILE]

FOLDER holds a folder per class, files whose name begins with the class index (3_0007.mp4), or
files that are named by their prompt (a_red_star_moving_up_seed0.mp4). A prompt also says what
colour and shape a video should show, and so does a class with --combinations, 0 to 191 then.
Reported are the shares of videos with the right direction, colour and shape, and of those that
keep their colour and shape in 14 of 16 frames; with --real also the Fréchet distances of motion
and appearance to those of real videos. Exit status: 0, or 1 where a share of right ones is below
--minimum or a share of constant ones below --constant, or 2 when there is nothing to judge or an
argument is wrong.
"""

import argparse
import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.moving_shapes.appearance import judge_appearance
from examples.moving_shapes.direction import NUM_DIRECTIONS, UNDECIDED, judge_motion
from examples.moving_shapes.distance import KINDS, Features, distances, features
from examples.moving_shapes.shapes import (
    CLASS_NAMES,
    COLOURS,
    COMBINATIONS,
    MOTIONS,
    SHAPES,
    class_names,
)
from latte_ms.data.video_file import VIDEO_SUFFIXES, DecodeError, read_video
from latte_ms.progress import progress

# The serial number of "0003.mp4" is no class.
_DIRECTION = re.compile(r"(?:class[_-]?)?(\d)(?=[_\-. ]|$)")
_COMBINATION = re.compile(r"(?:class[_-]?)?(\d{1,3})(?=[_\-. ]|$)")
_WORDS = re.compile(
    rf"an?_({'|'.join(COLOURS)})_({'|'.join(SHAPES)})_moving_"
    rf"({'|'.join(motion.replace(' ', '_') for motion in MOTIONS)})(?=_seed|_\d|$)"
)
_KEPT = ("colour", "shape")


@dataclass(frozen=True)
class Asked:
    """What a video should show; None where its class leaves it open."""

    direction: int
    colour: str | None = None
    shape: str | None = None


def main() -> int:
    args = parse_arguments()
    try:
        videos = find_videos(Path(args.folder), args.combinations)
        real = find_videos(Path(args.real), args.combinations) if args.real else []
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [judge(path, asked) for path, asked in progress(videos, unit="video", desc="judging")]
    report = summarise(rows)
    print_report(report)
    if args.real:
        report["distances"] = distances_to(described(real), videos)
        for name, value in report["distances"].items():
            shown = "not measured" if value is None else f"{value:.3f}"
            print(f"distance of {name} to real videos: {shown}")
    if args.json:
        text = json.dumps(report | {"videos": rows}, indent=1, allow_nan=False)
        Path(args.json).write_text(text, encoding="utf-8")
    limits = dict.fromkeys(("accuracy", "right_colour", "right_shape"), args.minimum)
    limits |= {f"constant_{name}": args.constant for name in _KEPT}
    low = [key for key, limit in limits.items() if (report[key] or 0.0) < limit]
    # Where a class is only a direction, nothing says which colour and shape are right.
    low = [key for key in low if report[key] is not None]
    if low:
        shown = ", ".join(f"{key} (minimum {limits[key]:.2%})" for key in low)
        print(f"FAIL: below the minimum: {shown}")
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder with class folders, or with files 3_*.mp4 ...")
    parser.add_argument(
        "--combinations",
        action="store_true",
        help="classes are combinations of direction, colour and shape, not directions",
    )
    parser.add_argument("--minimum", type=float, default=0.0, help="least share of right, 0..1")
    parser.add_argument(
        "--constant", type=float, default=0.0, help="least share of constant ones, 0..1"
    )
    parser.add_argument("--real", help="folder of real videos to measure distances to")
    parser.add_argument("--json", help="file to write the figures and each verdict to")
    args = parser.parse_args()
    for name in ("minimum", "constant"):
        if not 0.0 <= getattr(args, name) <= 1.0:
            parser.error(f"--{name} must be in 0..1, got {getattr(args, name)}")
    if args.json and not can_be_written(Path(args.json)):
        parser.error(f"--json must be a file in a folder that can be written to, got {args.json}")
    return args


def can_be_written(path: Path) -> bool:
    """Whether a file may appear there, or be replaced."""
    target = path if path.exists() else path.parent
    return not path.is_dir() and path.parent.is_dir() and os.access(target, os.W_OK)


def find_videos(folder: Path, combinations: bool = False) -> list[tuple[Path, Asked]]:
    """Each video once (an mp4 and its gif twin are one), with what it should show."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise ValueError(f"no videos under {folder}.")
    # Of several files with one stem the mp4 is judged: it is the last to enter the dictionary.
    files.sort(key=lambda path: path.suffix == ".mp4")
    by_stem = {path.with_suffix(""): path for path in files}
    return [
        (by_stem[stem], asked_of(by_stem[stem], folder, combinations)) for stem in sorted(by_stem)
    ]


def asked_of(path: Path, folder: Path, combinations: bool) -> Asked:
    """By the prompt, or the class index that the folder or else the file name begins with."""
    words = _WORDS.match(path.stem)
    if words is not None:
        return Asked(MOTIONS.index(words[3].replace("_", " ")), words[1], words[2])
    names = class_names(combinations)
    name = path.relative_to(folder).parts[0]
    match = (_COMBINATION if combinations else _DIRECTION).match(name)
    if match is None or int(match[1]) >= len(names):
        raise ValueError(
            f"{path}: {name!r} must begin with a class index in 0..{len(names) - 1}, "
            f"as in {names[1]!r} or '1_0007.mp4'."
        )
    label = int(match[1])
    return Asked(*COMBINATIONS[label]) if combinations else Asked(label)


def judge(path: Path, asked: Asked) -> dict[str, Any]:
    """One video's verdict; a file that cannot be read is undecided, so it counts as wrong."""
    row: dict[str, Any] = {"path": str(path), "label": asked.direction, "direction": UNDECIDED}
    row |= {f"asked_{name}": getattr(asked, name) for name in _KEPT if getattr(asked, name)}
    try:
        frames = read_video(path)
        motion, seen = judge_motion(frames), judge_appearance(frames)
    except (DecodeError, ValueError) as error:
        return row | {"error": str(error)}
    known = {key: value for key, value in asdict(motion).items() if value == value}  # no nan
    kept = {"constant_colour": seen.constant_colour, "constant_shape": seen.constant_shape}
    return row | known | {"colour": seen.colour, "shape": seen.shape} | kept


def distances_to(real: list[Features], videos: list[tuple[Path, Asked]]) -> dict[str, float | None]:
    """Fréchet distances of motion and appearance; None where hardly a video shows a shape."""
    found = described(videos)
    measured = distances(real, found) if min(len(real), len(found)) >= 2 else {}
    return {kind: measured.get(kind) for kind in KINDS}


def described(videos: list[tuple[Path, Asked]]) -> list[Features]:
    """The features of the videos that can be read and show a shape."""
    kept = []
    for path, _ in progress(videos, unit="video", desc="measuring"):
        try:
            found = features(read_video(path))
        except DecodeError:
            continue
        if found is not None:
            kept.append(found)
    return kept


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy in all and per direction, and the confusion table (asked, seen or undecided).

    The shares of right colours and shapes are None unless prompts or classes say what is right.
    """
    confusion = np.zeros((NUM_DIRECTIONS, NUM_DIRECTIONS + 1), int)
    for row in rows:
        confusion[row["label"], row["direction"]] += 1  # UNDECIDED is the last column
    counts = confusion.sum(1)
    right = confusion.diagonal()
    residuals = [row["residual"] for row in rows if "residual" in row]
    return {
        "count": len(rows),
        "accuracy": float(right.sum() / counts.sum()),
        "accuracy_per_class": [
            float(r / c) if c else None for r, c in zip(right, counts, strict=True)
        ],
        **{f"right_{name}": _right(rows, name) for name in _KEPT},
        **{
            f"constant_{name}": sum(row.get(f"constant_{name}", False) for row in rows) / len(rows)
            for name in _KEPT
        },
        "undecided": int(confusion[:, UNDECIDED].sum()),
        "unreadable": [row["error"] for row in rows if "error" in row],
        "median_residual": float(np.median(residuals)) if residuals else None,
        "confusion": confusion.tolist(),
    }


def _right(rows: list[dict[str, Any]], name: str) -> float | None:
    """Share of videos whose frames show the colour, or shape, of the prompt or class."""
    asked = [row for row in rows if f"asked_{name}" in row]
    if not asked:
        return None
    return sum(row.get(name) == row[f"asked_{name}"] for row in asked) / len(asked)


def print_report(report: dict[str, Any]) -> None:
    names = [name.split("_", 1)[1] for name in CLASS_NAMES]
    heads = ["".join(word[0] for word in name.split("_")) for name in names] + ["?"]
    print(f"{'class':<14}{'accuracy':>9}   " + "".join(f"{head:>5}" for head in heads))
    for i, name in enumerate(names):
        share = report["accuracy_per_class"][i]
        shown = "-" if share is None else f"{share:.1%}"
        counts = "".join(f"{count:>5}" for count in report["confusion"][i])
        print(f"{i} {name:<12}{shown:>9}   {counts}")
    for message in report["unreadable"]:
        print(f"unreadable: {message}")
    if report["median_residual"] is not None:
        print(f"median distance from a straight line: {report['median_residual']:.2f} px")
    for name in _KEPT:
        if report[f"right_{name}"] is not None:
            print(f"{name} as asked: {report[f'right_{name}']:.2%}")
        print(f"same {name} in 14 of 16 frames: {report[f'constant_{name}']:.2%}")
    print(f"direction accuracy: {report['accuracy']:.2%} of {report['count']} videos")


if __name__ == "__main__":
    sys.exit(main())
