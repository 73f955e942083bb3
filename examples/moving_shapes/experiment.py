"""What comparisons on the moving shapes share: runs of the scripts, and rows that are kept.

A run is a training with some options and a seed, and the evaluation of its samples. Its rows are
kept in one JSON file of the folder --results, with the settings that they were made with. A run
whose file is there is not made again, whether its checkpoints are there or not; rows of other
settings are refused. So a comparison may be continued in pieces, by several commands at once, and
on another machine.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from examples.moving_shapes.distance import KINDS, Features, features
from examples.moving_shapes.evaluate_shapes import distances_to, find_videos, judge, summarise
from examples.moving_shapes.sample_each import Weights
from examples.moving_shapes.shapes import CLASS_NAMES, class_names, draw_clip, seeded_clip
from latte_ms.atomic import atomic_file
from latte_ms.cache.index import read_index
from latte_ms.config import read_json, read_recipe
from latte_ms.data.video_file import DecodeError, read_video
from latte_ms.messages import differences, shown
from latte_ms.progress import progress
from latte_ms.training.history import read_history

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "shapes" / "train.yaml"
SAMPLING = ROOT / "configs" / "shapes" / "sample.yaml"
EACH_DIRECTION = f"classes={list(range(len(CLASS_NAMES)))}"  # what it samples here, in turn
_ASKED = {"right_colour": "colour", "right_shape": "shape"}  # where a class says which
FIGURES = {
    "accuracy": "direction",
    "constant_colour": "constant colour",
    "constant_shape": "constant shape",
    "motion": "motion distance",
    "appearance": "appearance distance",
}
ALL_FIGURES = {"accuracy": FIGURES["accuracy"], **_ASKED, **FIGURES}
SPREAD, DATA_SEED = 0.2, 0  # of the videos to train on
_REAL_VIDEOS, _REAL_SEED = 64, 99  # per class, for the distances
_MOST_DIFFERENT = 3.0  # mean of 255 levels: compression is half of that, another seed twice
_FUSED_UPDATES = 300  # of a run that is worth the time of its compilation
_SHOWN = 4  # differences in a message
# Keys that change neither a network nor its videos by more than rounding, or are told otherwise.
_UNSAID = {
    *("data.path", "latent_cache.path", "vae", "weights", "initial_weights", "output", "formats"),
    *("loop.output", "loop.seed", "loop.num_workers", "loop.log_every"),
}
_GIVEN = ("data", "latents")
_TOLD_BY_ROWS = ("data", "start")  # sections of settings that follow from what a command is given

Row = dict[str, Any]  # label, updates, and figures; None where a figure cannot be measured
Settings = dict[str, Any]  # sections of keys and values, of which "data" says what was trained on


@dataclass(frozen=True)
class Record:
    """The rows of one run, and what they were made with."""

    run: str
    seed: int
    settings: Settings
    rows: list[Row]


def parser_of(
    description: str | None, runs: Sequence[str], updates: int, videos: int = 64
) -> argparse.ArgumentParser:
    """The options that all comparisons have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of videos to train on")
    parser.add_argument("--latents", type=Path, help="their latent cache")
    parser.add_argument("--output", type=Path, required=True, help="for trainings and samples")
    parser.add_argument("--results", type=Path, help="for rows (default: rows in --output)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"these runs alone, of: {', '.join(runs)}"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--updates", type=int, default=updates, help=f"of a run (default {updates})"
    )
    parser.add_argument(
        "--videos", type=int, default=videos, help=f"sampled each time (default {videos})"
    )
    parser.add_argument("--document", type=Path, help="Markdown file to write the table into")
    return parser


def check_arguments(
    parser: argparse.ArgumentParser, args: argparse.Namespace, runs: Sequence[str]
) -> None:
    """Fill what follows from others, and end the program where an option is wrong."""
    args.results = args.results or args.output / "rows"
    args.only = args.only or list(runs)
    for name in ("data", "latents", "output", "results"):
        path = getattr(args, name)
        if path is not None:  # scripts are started in another folder
            setattr(args, name, path.resolve())
        if name in _GIVEN and path is not None and not path.is_dir():
            parser.error(f"--{name} must be a folder, got {path}")
    if (args.data is None) != (args.latents is None):
        parser.error("--data and --latents must both be given, or none of them")
    unknown = [name for name in args.only if name not in runs]
    if unknown:
        parser.error(f"--only must be of {', '.join(runs)}; got {', '.join(unknown)}")
    least = {
        "updates": (args.updates, 10),
        "videos": (args.videos, 8),
        "seeds": (min(args.seeds), 0),
    }
    for name, (value, limit) in least.items():
        if value < limit:
            parser.error(f"--{name} must be at least {limit}, got {value}")


def data_of(videos: Path, latents: Path, combinations: bool = False) -> Settings:
    """What rows say of the data that they were trained on: by directions, or by combinations.

    Raises ValueError or OSError for data that is not make_shapes.py's with --spread 0.2, or not in
    the latent cache as a whole.
    """
    index = read_index(latents)
    if index is None or not index.complete:
        raise ValueError(f"--latents must be a folder that encode.py has filled, got {latents}.")
    counts = Counter(Path(name).parent.name for name in index.names)
    names = class_names(combinations)
    if set(counts) != set(names) or len(set(counts.values())) > 1:
        raise ValueError(
            f"--latents must hold as many videos of each of {len(names)} classes, {names[0]} and "
            f"so on, got {len(index.names)} of {len(counts)}."
        )
    try:
        apart = [
            np.abs(
                read_video(videos / name / "00000.mp4")
                - seeded_clip(
                    DATA_SEED, label, 0, spread=SPREAD, combinations=combinations
                ).frames.astype(np.float64)
            ).mean()
            for label, name in enumerate(names)
        ]
    except (DecodeError, ValueError) as error:  # ValueError: of another size
        raise ValueError(f"--data must hold the videos of make_shapes.py: {error}") from error
    if np.mean(apart) > _MOST_DIFFERENT:
        raise ValueError(
            f"--data must be the videos of make_shapes.py with --spread {SPREAD} and --seed "
            f"{DATA_SEED}; the frames in {videos} differ from them by {np.mean(apart):.1f} levels."
        )
    checksum = str(index.settings["autoencoder"]["sha256"])[:16]
    per_class = next(iter(counts.values()))
    return {
        "videos_per_class": per_class,
        "spread": SPREAD,
        "seed": DATA_SEED,
        "autoencoder": checksum,
    }


def stated(recipe: Path, keys: Sequence[str]) -> Settings:
    """What a recipe with these keys states, by its dotted names, but for paths and the seed."""
    return {
        name: value
        for name, value in _leaves(read_recipe(recipe, keys))
        if name not in _UNSAID and not name.startswith("runtime.")
    }


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> Any:
    """Numbers and truth values in place of how a recipe spells them."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def as_keys(values: Mapping[str, Any]) -> list[str]:
    """Values as a command line has them."""
    return [f"{key}={value}" for key, value in values.items()]


def path_of(results: Path, run: str, seed: int) -> Path:
    """The file of the rows of a run."""
    return results / f"{run.replace(' ', '_')}_seed{seed}.json"


def write_record(results: Path, record: Record) -> None:
    """Keep the rows of a run."""
    with atomic_file(path_of(results, record.run, record.seed)) as temporary:
        text = json.dumps(asdict(record), indent=1, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def read_records(results: Path) -> list[Record]:
    """The rows that are kept in a folder. Raises ValueError for a file of something else."""
    records = []
    for path in sorted(results.glob("*_seed*.json")):
        values = read_json(path)
        try:
            record = Record(**values)
            named = path_of(results, record.run, record.seed)
            sound = bool(record.rows) and isinstance(record.settings, dict) and path == named
        except (TypeError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(
                f"{path} does not hold the rows of a run with their settings, or of another run: "
                "remove it, or name another folder by --results."
            )
        records.append(record)
    return records


def check_records(
    results: Path, records: Sequence[Record], expected: Mapping[str, Settings]
) -> None:
    """Raise ValueError, naming what differs, for rows of other settings than the command's.

    `expected` are those of each run; where they lack the section "data" or "start", all rows must
    have the same one.
    """
    for record in records:
        path = path_of(results, record.run, record.seed)
        if record.run not in expected:
            raise ValueError(f"{path} holds rows of {shown(record.run)}, which is no run of this.")
        told = {name: records[0].settings.get(name) for name in _TOLD_BY_ROWS}
        now = {name: value for name, value in told.items() if value} | expected[record.run]
        found = list(differences(record.settings, now))
        if found:
            text = "; ".join(f"{key} was {old}, is {new}" for key, old, new in found[:_SHOWN])
            raise ValueError(
                f"{path} holds rows of other settings ({text}): choose the same, or another folder "
                "by --results."
            )


def make_missing(
    args: argparse.Namespace,
    expected: Mapping[str, Settings],
    make: Callable[[str, int], list[Row]],
) -> list[Record]:
    """Make the runs of the command whose rows are not kept yet; returns all records there are.

    Without --data nothing is made. Raises ValueError for rows of other settings, and where there is
    neither data nor a row.
    """
    check_records(args.results, read_records(args.results), expected)
    wanted = [(name, seed) for seed in args.seeds for name in args.only]
    missing = [key for key in wanted if not path_of(args.results, *key).exists()]
    args.output.mkdir(parents=True, exist_ok=True)
    print(f"{len(wanted) - len(missing)} of {len(wanted)} runs have their rows in {args.results}")
    if args.data is None:
        missing = []
    for name, seed in progress(missing, unit="run", desc="runs"):
        if not path_of(args.results, name, seed).exists():  # another command may have made it
            rows = make(name, seed)
            write_record(args.results, Record(name, seed, expected[name], rows))
    records = read_records(args.results)
    if not records:
        raise ValueError(f"--data and --latents must be given: no rows are in {args.results}.")
    return records


def begin(folder: Path, settings: Settings) -> None:
    """Prepare the folder of a run. Raises ValueError where it holds one of other settings."""
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds a run of other settings: remove it, or choose --output.")
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def checkpoint_of(folder: Path, updates: int) -> Path:
    """Where the weights of a run are after so many updates."""
    return folder / "checkpoints" / f"{updates:07d}"


def jit_level(updates: int) -> str:
    """Fusion takes a minute to compile, and 0.4 of the time of each update off."""
    return "O1" if updates >= _FUSED_UPDATES else "O0"


def training_keys(
    args: argparse.Namespace, updates: int, seed: int, folder: Path
) -> dict[str, Any]:
    """What all trainings change in the recipe alike."""
    return {
        "data.path": args.data,
        "latent_cache.path": args.latents,
        "loop.output": folder,
        "loop.batch_size": 8,
        "loop.max_steps": updates,
        "loop.seed": seed,
        "optimizer.decay_steps": updates,
        "optimizer.ema_warmup": "true",
        "runtime.jit_level": jit_level(updates),
    }


def train(recipe: Path, keys: Mapping[str, Any]) -> None:
    """Train, or go on training, unless the last checkpoint is there."""
    if not checkpoint_of(keys["loop.output"], keys["loop.max_steps"]).exists():
        run("scripts/train.py", "--config", recipe, *as_keys(keys))


def training_seconds(folder: Path, updates: int) -> float:
    """Of so many updates, from the median over the logged rows: without compiling or saving."""
    rows = read_history(folder / "history.csv")
    times = [row["data_seconds"] + row["compute_seconds"] for row in rows]
    counts = np.diff([0, *(row["step"] for row in rows)])
    return float(np.median(np.array(times) / counts) * updates)


def judged(
    weights: Sequence[Weights], folder: Path, keys: Sequence[str], combinations: bool = False
) -> Iterator[Row]:
    """Sample from each of the weights of one network; yields the figures of their videos."""
    shutil.rmtree(folder / "samples", ignore_errors=True)
    sources = [part for one in weights for part in ("--weights", one)]
    output = f"output={folder / 'samples'}"
    run("examples/moving_shapes/sample_each.py", "--config", SAMPLING, *sources, *keys, output)
    for one in weights:
        videos = find_videos(folder / "samples" / one.name, combinations)
        report = summarise([judge(path, asked) for path, asked in videos])
        shares = {name: report[name] for name in ALL_FIGURES if name not in KINDS}
        known = {name: share for name, share in shares.items() if share is not None}
        yield known | distances_to(list(real_features()), videos)


@cache
def real_features() -> tuple[Features, ...]:
    """Of real videos that no run is trained on."""
    found = []
    drawn = [(label, i) for label in range(len(CLASS_NAMES)) for i in range(_REAL_VIDEOS)]
    for label, i in progress(drawn, unit="video", desc="real videos"):
        rng = np.random.default_rng([_REAL_SEED, label, i])
        one = features(draw_clip(label, rng, spread=SPREAD).frames)
        assert one is not None
        found.append(one)
    return tuple(found)


def run(script: str, *arguments: Any) -> None:
    """A script of the repository in a process of its own. Exits with its output when it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stdout}{done.stderr}")
