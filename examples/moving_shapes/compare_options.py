"""Options of training judged at equal compute: `compare_options.py --data DIR --start FILE ...`.

    python examples/moving_shapes/make_shapes.py --target data/shapes_combinations \\
        --videos-per-class 13 --spread 0.2 --combinations
    python scripts/encode.py --config configs/shapes/train_combinations.yaml \\
        latent_cache.path=data/combination_latents
    python examples/moving_shapes/compare_options.py --data data/shapes_combinations \\
        --latents data/combination_latents --output outputs/shapes/options \\
        --start outputs/shapes/combinations/checkpoints/0001000

Trains the class model of `configs/shapes/train_combinations.yaml` further, once per option and
seed, all from the same weights, --start; samples random classes; and judges the videos: direction,
colour and shape, whether colour and shape stay the same, and the Fréchet distances of motion and
appearance to real videos of another seed. An update that costs more (joint images, a teacher's
forward pass) is made less often.

The rows of a run are kept in a file of the folder --results. A run whose file is there is not made
again, whether its checkpoints are there or not; rows of other settings are refused. So the same
command goes on after an interruption; several with different --seeds or --only may run side by
side; and without --data and --latents the command writes the table and the plot of the rows alone.

Writes `table.md` and `training_options.png` to --output; with --document FILE also to its folder
`images`, and the table with the plot into the file, between two comments.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.moving_shapes import experiment, report
from examples.moving_shapes.experiment import (
    ALL_FIGURES,
    SAMPLING,
    Row,
    Settings,
    checkpoint_of,
)
from examples.moving_shapes.sample_each import Weights
from latte_ms import weights
from latte_ms.config import exit_on_error
from latte_ms.weights.checksums import fingerprint

RECIPE = experiment.ROOT / "configs" / "shapes" / "train_combinations.yaml"
TRAINING = {"optimizer.learning_rate": 5e-4}  # half the recipe's: the start is trained
EMA_WIDTHS = (0.05, 0.2)


@dataclass(frozen=True)
class Option:
    """One way to train."""

    keys: Mapping[str, Any] = field(default_factory=dict)  # added to the recipe
    cost: float = 1.0  # of an update, relative to one without options


# A forward pass costs one unit, a backward pass two; the teacher of the alignment runs 7 of 10
# blocks forward. Half of the blocks, the spatial ones, see 24 images in place of 16 frames with 8
# joint images.
OPTIONS: dict[str, Option] = {
    "baseline": Option(),
    "logit-normal timesteps": Option(
        {
            "diffusion.timestep_sampling": "logit_normal",
            "diffusion.timestep_logit_mean": 0.2,
            "diffusion.timestep_logit_deviation": 1.1,
        }
    ),
    "loss-aware timesteps": Option({"diffusion.timestep_sampling": "loss_aware"}),
    "min-SNR 5": Option({"diffusion.min_snr_gamma": 5.0}),
    "contrastive 0.05": Option({"diffusion.contrastive_weight": 0.05}),
    "alignment 0.2": Option(
        {
            "diffusion.alignment_weight": 0.2,
            "diffusion.alignment_student_blocks": 3,
            "diffusion.alignment_teacher_blocks": 7,
        },
        cost=(3 + 7 / 10) / 3,
    ),
    "8 joint images": Option({"data.num_joint_images": 8}, cost=(24 + 16) / (16 + 16)),
}
BASELINE = next(iter(OPTIONS))


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    with exit_on_error():
        if args.document is not None:
            report.divided(args.document)
        known = expected(args)
        records = experiment.make_missing(
            args, known, lambda name, seed: rows_of(args, known[name], name, seed)
        )
        rows = [row | {"seed": record.seed} for record in records for row in record.rows]
        text = table(rows)
        report.write(args.output, args.document, "training", text, {"options": plot(rows)})
    print(text)
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = experiment.parser_of(__doc__, list(OPTIONS), updates=500, videos=128)
    parser.add_argument("--start", type=Path, help="weights that every run starts from")
    args = parser.parse_args(arguments)
    experiment.check_arguments(parser, args, list(OPTIONS))
    if (args.data is None) != (args.start is None):
        parser.error("--data and --start must both be given, or none of them")
    if args.start is not None and not args.start.exists():
        parser.error(f"--start must be a checkpoint folder or a file, got {args.start}")
    return args


def expected(args: argparse.Namespace) -> dict[str, Settings]:
    """The settings of each option's rows."""
    shared: Settings = {"sampling": experiment.stated(SAMPLING, sampling_keys(args))}
    if args.data is not None:
        shared["data"] = experiment.data_of(args.data, args.latents, combinations=True)
        shared["start"] = {"weights": fingerprint(weights.read(args.start, "ema"))[:16]}
    return {
        name: {"training": experiment.stated(RECIPE, experiment.as_keys(keys)), **shared}
        for name, option in OPTIONS.items()
        for keys in [keys_of(args, option, 0, Path())]
    }


def keys_of(args: argparse.Namespace, option: Option, seed: int, folder: Path) -> dict[str, Any]:
    """What one run changes in the recipe; the same compute for each option."""
    updates = updates_of(args, option)
    return {
        **experiment.training_keys(args, updates, seed, folder),
        **TRAINING,
        **({"initial_weights": args.start.resolve()} if args.start else {}),
        "loop.save_every": updates,
        "optimizer.warmup_steps": updates // 10,
        "optimizer.ema_sigma_rels": list(EMA_WIDTHS),
        "optimizer.ema_snapshot_every": updates // 8,
        **option.keys,
    }


def sampling_keys(args: argparse.Namespace) -> list[str]:
    return [f"num_videos={args.videos}", "classes=[]", "formats=[mp4]", "sampler.num_steps=20"]


def updates_of(args: argparse.Namespace, option: Option) -> int:
    return round(args.updates / option.cost)


def rows_of(args: argparse.Namespace, settings: Settings, name: str, seed: int) -> list[Row]:
    """The rows of one run, which is trained first, or further."""
    folder = args.output / f"{name.replace(' ', '_')}_seed{seed}"
    experiment.begin(folder, settings)
    experiment.train(RECIPE, keys_of(args, OPTIONS[name], seed, folder))
    chosen = averages(args, name, folder)
    found = experiment.judged(list(chosen.values()), folder, sampling_keys(args), combinations=True)
    return [
        {"option": label, "updates": updates_of(args, OPTIONS[name]), **figures}
        for label, figures in zip(chosen, found, strict=True)
    ]


def averages(args: argparse.Namespace, name: str, folder: Path) -> dict[str, Weights]:
    """The weights of a run to sample from, by their labels.

    Of the run without options also those without an average, and with averages of other lengths.
    """
    checkpoint = checkpoint_of(folder, updates_of(args, OPTIONS[name]))
    chosen = {name: Weights(checkpoint)}
    if name != BASELINE:
        return chosen
    chosen["no EMA"] = Weights(checkpoint, "model")
    for width in EMA_WIDTHS:
        target = folder / f"ema_{width}"
        if not target.exists():
            script = "tools/posthoc_ema.py"
            experiment.run(script, folder, f"--sigma-rel={width}", f"--target={target}")
        chosen[f"EMA width {width}"] = Weights(target)
    return chosen


def table(rows: Sequence[Row]) -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    ordered = in_order(rows)
    lines = []
    for option in dict.fromkeys(row["option"] for row in ordered):
        own = [row for row in ordered if row["option"] == option]
        cells = [report.mean_and_deviation(own, name) for name in ALL_FIGURES]
        lines.append([option, *cells])
    return report.table(["option", *ALL_FIGURES.values()], lines)


def plot(rows: Sequence[Row]) -> Figure:
    """A panel per figure, a point per run, a bar at the mean."""
    names = list(dict.fromkeys(row["option"] for row in in_order(rows)))[::-1]
    figure = Figure(figsize=(3.0 * len(ALL_FIGURES), 0.45 * len(names) + 1.0), layout="constrained")
    panels = figure.subplots(1, len(ALL_FIGURES), sharey=True)
    for panel, (name, title) in zip(panels, ALL_FIGURES.items(), strict=True):
        for place, option in enumerate(names):
            own = [row[name] for row in rows if row["option"] == option]
            values = np.array(own, np.float64)  # nan where a figure could not be measured
            panel.barh(place, np.mean(values), color="tab:blue", alpha=0.3)
            panel.plot(values, [place] * len(values), "o", color="tab:blue", markersize=4)
        panel.set_title(title + (" (lower is better)" if "distance" in title else ""), fontsize=9)
    panels[0].set_yticks(range(len(names)), names)
    return figure


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows of runs in the order of `OPTIONS`, those of other averages after the others."""
    order = list(OPTIONS)
    return sorted(
        rows,
        key=lambda row: order.index(row["option"]) if row["option"] in order else len(order),
    )


if __name__ == "__main__":
    sys.exit(main())
