"""The paper's design choices on the moving shapes: `study.py --data DIR --latents DIR ...`.

    python examples/moving_shapes/make_shapes.py --target data/shapes_300 \\
        --videos-per-class 300 --spread 0.2
    python scripts/encode.py --config configs/shapes/train.yaml \\
        data.path=data/shapes_300 latent_cache.path=data/shapes_300_latents
    python examples/moving_shapes/study.py --data data/shapes_300 \\
        --latents data/shapes_300_latents --output outputs/shapes/study \\
        --results docs/study --document docs/study.md

Trains a small Latte for each design choice and seed, all with the same number of updates, samples
each class at a few points of the training, and judges the videos: direction, constancy of colour
and shape, and the Fréchet distances of motion and appearance to real videos of another seed. With
--fvd also FVD at the last point, which needs `fetch_detectors.py i3d`.

The rows of a run are kept in a file of the folder --results. A run whose file is there is not made
again, whether its checkpoints are there or not; rows of other settings are refused. So the same
command goes on after an interruption, and several with different --seeds or --only may run side by
side. Without --data and --latents the command writes table and plots of the rows alone.

Writes `table.md` and a plot for each comparison to --output; with --document FILE also to its
folder `images`, and the table with the plots into the file, between two comments.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.moving_shapes import experiment, report
from examples.moving_shapes.experiment import (
    EACH_DIRECTION,
    FIGURES,
    RECIPE,
    SAMPLING,
    Record,
    Row,
    Settings,
)
from examples.moving_shapes.sample_each import Weights
from latte_ms import config, weights
from latte_ms.cache.index import read_index
from latte_ms.config import exit_on_error, read_json
from latte_ms.metrics.packages import fetched
from latte_ms.progress import progress
from latte_ms.training.recipe import LatteTrainConfig, TrainConfig
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.cost import cost_of
from latte_ms.weights.starting_points import TEMPORAL

POINTS = 3  # of a training, at equal distances, from which videos are sampled
BASE = {"network.hidden_size": 80, "network.depth": 6}
FVD = {"protocol": "stylegan_v", "num_clips": 256, "kind": "videos"}
PANELS = ("accuracy", "constant_shape", "motion", "appearance")


@dataclass(frozen=True)
class Design:
    """A network, or a way to train it, that is compared with others."""

    title: str
    keys: Mapping[str, Any] = field(default_factory=dict)  # that differ from the base's
    from_images: bool = False  # starts with the weights of a network of single frames


DESIGNS: dict[str, Design] = {
    "variant_1": Design("variant 1: the base of all others"),
    "variant_2": Design("variant 2", {"network.variant": 2}),
    # 5 blocks of two attentions have about the parameters of 6 blocks of one
    "variant_3": Design("variant 3", {"network.variant": 3, "network.depth": 5}),
    "variant_4": Design("variant 4", {"network.variant": 4}),
    "compression": Design(
        "compression: tubelets of 2 frames",
        {"network.patch_embedding": "compression", "network.temporal_patch_size": 2},
    ),
    "all_tokens": Design("condition as tokens", {"network.injection": "tokens"}),
    "rotary_temporal": Design("rotary along frames", {"network.positions": "rotary_temporal"}),
    "rotary": Design("rotary along and within frames", {"network.positions": "rotary"}),
    "joint_images": Design("8 joint images", {"data.num_joint_images": 8}),
    "image_start": Design("from an image network", from_images=True),
    "small": Design(
        "small: 4 blocks of 48 channels", {"network.hidden_size": 48, "network.depth": 4}
    ),
    "large": Design(
        "large: 8 blocks of 112 channels", {"network.hidden_size": 112, "network.depth": 8}
    ),
}
# A plot for each: the designs with what they are called there.
COMPARISONS: dict[str, dict[str, str]] = {
    "variants": {f"variant_{number}": f"variant {number}" for number in (1, 2, 3, 4)},
    "patches": {"variant_1": "uniform frame patches", "compression": "compression frames"},
    "injection": {"variant_1": "S-AdaLN", "all_tokens": "all tokens"},
    "positions": {
        "variant_1": "absolute",
        "rotary_temporal": "rotary along frames",
        "rotary": "rotary along and within frames",
    },
    "images": {"variant_1": "video alone", "joint_images": "8 joint images"},
    "start": {"variant_1": "from scratch", "image_start": "from an image network"},
    "sizes": {"small": "small", "variant_1": "base", "large": "large"},
}


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    with exit_on_error():
        if args.fvd:
            fetched("i3d")
        if args.document is not None:
            report.divided(args.document)
        known = expected(args)
        records = experiment.make_missing(
            args, known, lambda name, seed: rows_of(args, known[name], name, seed)
        )
        if args.fvd:
            records = measured(args, records)
        print(write_report(args, records))
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = experiment.parser_of(__doc__, list(DESIGNS), updates=1500)
    parser.add_argument("--fvd", action="store_true", help="measure FVD at the last point, too")
    args = parser.parse_args(arguments)
    experiment.check_arguments(parser, args, list(DESIGNS))
    if args.updates % POINTS:
        parser.error(f"--updates must be divisible by {POINTS}, got {args.updates}")
    return args


def expected(args: argparse.Namespace) -> dict[str, Settings]:
    """The settings of each design's rows."""
    shared: Settings = {
        "sampling": experiment.stated(SAMPLING, sampling_keys(args)),
        "fvd": FVD,
    }
    if args.data is not None:
        shared["data"] = experiment.data_of(args.data, args.latents)
    found = {}
    for name, design in DESIGNS.items():
        keys = experiment.as_keys(keys_of(args, design, 0, Path()))
        found[name] = {"training": experiment.stated(RECIPE, keys), **shared}
        if design.from_images:
            keys = experiment.as_keys(image_keys(args, 0, Path()))
            found[name]["image_network"] = experiment.stated(RECIPE, keys)
    return found


def keys_of(args: argparse.Namespace, design: Design, seed: int, folder: Path) -> dict[str, Any]:
    """What one training changes in the recipe."""
    start = {}
    if design.from_images:
        start = {"initial_weights": image_network(folder), "initial_partial": "true"}
    return {
        **experiment.training_keys(args, args.updates, seed, folder),
        **BASE,
        "loop.save_every": args.updates // POINTS,
        "loop.keep_checkpoints": 0,
        "optimizer.warmup_steps": args.updates // 20,
        **design.keys,
        **start,
    }


def image_keys(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """What the training of the network of single frames changes in the recipe."""
    return {
        **keys_of(args, DESIGNS["variant_1"], seed, folder / "images"),
        **image_latent_keys(args, folder),
        "loop.batch_size": 16,
        "loop.save_every": args.updates,
    }


def image_latent_keys(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What encoding 4 single frames of each video, for a run alone, changes in the recipe."""
    return {
        "data.path": args.data,
        "data.num_frames": 1,
        "network.num_frames": 1,
        "latent_cache.path": folder / "image_latents",
        "latent_cache.clips_per_video": 4,
    }


def image_network(folder: Path) -> Path:
    """The file of the network of single frames of a run."""
    return folder / "image_network.safetensors"


def sampling_keys(args: argparse.Namespace) -> list[str]:
    return [f"num_videos={args.videos}", EACH_DIRECTION, "formats=[mp4]", "sampler.num_steps=20"]


def rows_of(args: argparse.Namespace, settings: Settings, name: str, seed: int) -> list[Row]:
    """The rows of one run, which is trained first, or further."""
    folder = args.output / f"{name}_seed{seed}"
    experiment.begin(folder, settings)
    if DESIGNS[name].from_images and not image_network(folder).exists():
        train_images(args, seed, folder)
    experiment.train(RECIPE, keys_of(args, DESIGNS[name], seed, folder))
    points = [args.updates * i // POINTS for i in range(1, POINTS + 1)]
    chosen = [Weights(experiment.checkpoint_of(folder, updates)) for updates in points]
    found = experiment.judged(chosen, folder, sampling_keys(args))
    rows = [{"updates": updates, **figures} for updates, figures in zip(points, found, strict=True)]
    rows[-1]["seconds"] = round(experiment.training_seconds(folder, args.updates), 1)
    return rows


def train_images(args: argparse.Namespace, seed: int, folder: Path) -> None:
    """Train a network of single frames, and write it so that it is loaded as an ImageNet DiT is."""
    latents = image_latent_keys(args, folder)
    index = read_index(latents["latent_cache.path"])
    if index is None or not index.complete:
        experiment.run("scripts/encode.py", "--config", RECIPE, *experiment.as_keys(latents))
    keys = image_keys(args, seed, folder)
    experiment.train(RECIPE, keys)
    checkpoint = experiment.checkpoint_of(keys["loop.output"], args.updates)
    write_image_network(checkpoint, image_network(folder))


def write_image_network(source: Path, target: Path) -> None:
    """The average of a checkpoint without temporal positions, as the weights of a DiT."""
    tensors = weights.read(source, "ema")
    arrays = {name: tensors[name] for name in tensors if name != TEMPORAL}
    weights.write(target, {"": weights.from_arrays(arrays)})


def measured(args: argparse.Namespace, records: Sequence[Record]) -> list[Record]:
    """All records, with FVD in those of the command that lacked it."""
    wanted = [
        record
        for record in records
        if record.run in args.only and record.seed in args.seeds and "fvd" not in record.rows[-1]
    ]
    bar = progress(wanted, unit="run", desc="FVD")
    found = {(record.run, record.seed): with_fvd(args, record) for record in bar}
    return [found.get((record.run, record.seed), record) for record in records]


def with_fvd(args: argparse.Namespace, record: Record) -> Record:
    """The record with FVD in its last row, where its samples exist."""
    folder = args.output / f"{record.run}_seed{record.seed}"
    samples = folder / "samples" / experiment.checkpoint_of(folder, args.updates).name
    if not samples.is_dir() or args.data is None:
        print(f"no FVD of {record.run} with seed {record.seed}: its samples, or --data, are gone")
        return record
    output = folder / "fvd.json"
    keys = {"real": args.data, "generated": samples, "output": output, **FVD}
    experiment.run("scripts/calc_metrics.py", *experiment.as_keys(keys))
    last = record.rows[-1] | {"fvd": read_json(output)["fvd"]["distance"]["value"]}
    record = replace(record, rows=[*record.rows[:-1], last])
    experiment.write_record(args.results, record)
    return record


def write_report(args: argparse.Namespace, records: Sequence[Record]) -> str:
    """Write table and plots, and return the table."""
    text = table(args, records)
    made = {record.run for record in records}
    figures = {}
    for title, names in COMPARISONS.items():
        shown = {name: label for name, label in names.items() if name in made}
        if len(shown) > 1:
            figures[title] = curves(records, shown)
    report.write(args.output, args.document, "study", text, figures)
    return text


def network_of(args: argparse.Namespace, design: Design) -> LatteConfig:
    """The network of a design."""
    cfg = config.load(TrainConfig, RECIPE, experiment.as_keys(keys_of(args, design, 0, Path("a"))))
    assert isinstance(cfg, LatteTrainConfig)
    return cfg.network


def table(args: argparse.Namespace, records: Sequence[Record]) -> str:
    """What the networks cost and, at the last point, mean and deviation over seeds, as Markdown."""
    has_fvd = any("fvd" in record.rows[-1] for record in records)
    figures = FIGURES | {"fvd": "FVD"} if has_fvd else FIGURES
    lines = []
    for name, design in DESIGNS.items():
        own = [record for record in records if record.run == name]
        if not own:
            continue
        cost = cost_of(network_of(args, design))
        seconds = np.median([record.rows[-1]["seconds"] for record in own])
        lines.append(
            [
                design.title,
                ", ".join(str(record.seed) for record in own),
                f"{cost.parameters / 1e3:.0f}",
                f"{cost.flops / 1e6:.0f}",
                f"{seconds:.0f}",
                *(report.mean_and_deviation([r.rows[-1] for r in own], f) for f in figures),
            ]
        )
    costs = ("parameters (10³)", "MFLOP", "training (s)")
    return report.table(["network", "seeds", *costs, *figures.values()], lines)


def curves(records: Sequence[Record], names: Mapping[str, str]) -> Figure:
    """A panel per figure: the mean over the seeds against updates, and the range of all seeds."""
    figure = Figure(figsize=(3.1 * len(PANELS), 2.7), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for panel, figure_name in zip(panels, PANELS, strict=True):
        for number, (name, label) in enumerate(names.items()):
            own = [record.rows for record in records if record.run == name]
            updates = [row["updates"] for row in own[0]]
            values = np.array([[row[figure_name] for row in rows] for rows in own], np.float64)
            colour = f"C{number}"
            panel.plot(updates, values.mean(0), "o-", color=colour, markersize=3, label=label)
            panel.fill_between(updates, values.min(0), values.max(0), color=colour, alpha=0.15)
        distance = "distance" in FIGURES[figure_name]
        panel.set_yscale("log" if distance else "linear")
        panel.set_title(FIGURES[figure_name] + (" (lower is better)" if distance else ""), size=9)
        panel.set_xlabel("updates", size=8)
        panel.tick_params(labelsize=8, which="both")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    sys.exit(main())
