"""Options of training judged at equal compute: `compare_options.py --data DIR --latents DIR ...`.

    python examples/moving_shapes/make_shapes.py --target data/shapes_middle \\
        --videos-per-class 300 --spread 0.2
    python scripts/encode.py --config configs/shapes/train.yaml \\
        latent_cache.path=data/shapes_latents
    python examples/moving_shapes/compare_options.py --data data/shapes_middle \\
        --latents data/shapes_latents --output outputs/shapes/options

Trains a small Latte once per option and seed with `configs/shapes/train.yaml`, samples each class,
and judges the videos: direction, constancy of colour and shape, and the Fréchet distances of motion
and appearance to real videos of another seed. An update that costs more (a teacher's forward pass)
is made less often. Whatever exists in the output is kept, so the same command goes on after an
interruption; several commands with different --seeds may run side by side.

Writes `table.md`, `rows.json` and `options.png`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.moving_shapes.distance import KINDS, Features, features
from examples.moving_shapes.evaluate_shapes import distances_to, find_videos, judge, summarise
from examples.moving_shapes.shapes import CLASS_NAMES, draw_clip
from latte_ms.atomic import atomic_file
from latte_ms.progress import progress

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "shapes" / "train.yaml"
_REAL_VIDEOS, _REAL_SEED, _SPREAD = 64, 99, 0.2  # per class, drawn like the set to train on
NETWORK = {"hidden_size": 96, "depth": 4}
EMA_WIDTHS = (0.05, 0.2)


@dataclass(frozen=True)
class Option:
    """One way to train."""

    keys: Mapping[str, Any] = field(default_factory=dict)  # added to the recipe
    cost: float = 1.0  # of an update, relative to one without options


# A forward pass costs one unit, a backward pass two; the teacher of the alignment runs 3 of 4
# blocks forward.
OPTIONS: dict[str, Option] = {
    "baseline": Option(),
    "min-SNR 5": Option({"diffusion.min_snr_gamma": 5.0}),
    "loss-aware timesteps": Option({"diffusion.timestep_sampling": "loss_aware"}),
    "logit-normal timesteps": Option({"diffusion.timestep_sampling": "logit_normal"}),
    "contrastive 0.05": Option({"diffusion.contrastive_weight": 0.05}),
    "alignment 0.2": Option(
        {
            "diffusion.alignment_weight": 0.2,
            "diffusion.alignment_student_blocks": 2,
            "diffusion.alignment_teacher_blocks": 3,
        },
        cost=(3 + 3 / 4) / 3,
    ),
    "4 joint images": Option({"data.num_joint_images": 4}, cost=20 / 16),
}
BASELINE = next(iter(OPTIONS))
FIGURES = {
    "accuracy": "direction",
    "constant_colour": "constant colour",
    "constant_shape": "constant shape",
    "motion": "motion distance",
    "appearance": "appearance distance",
}


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    real = list(real_features())
    runs = [(name, seed) for seed in args.seeds for name in OPTIONS]
    for name, seed in progress(runs, unit="run", desc="options"):
        folder = args.output / f"{name.replace(' ', '_')}_seed{seed}"
        if not checkpoint_of(args, OPTIONS[name], folder).exists():
            keys = keys_of(args, OPTIONS[name], seed, folder)
            run("scripts/train.py", "--config", RECIPE, *keys)
        for label, weights in averages(args, name, folder):
            file_name = label.replace(" ", "_")
            judged = args.output / "rows" / f"{file_name}_seed{seed}.json"
            if not judged.exists():
                found = sampled(args, weights, folder / "samples" / file_name, real)
                row = {"option": label, "seed": seed, **found}
                judged.parent.mkdir(exist_ok=True)
                with atomic_file(judged) as temporary:
                    temporary.write_text(json.dumps(row))
    rows = [json.loads(path.read_text()) for path in sorted((args.output / "rows").glob("*.json"))]
    (args.output / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = table(rows)
    (args.output / "table.md").write_text(text)
    plot(rows).savefig(args.output / "options.png", dpi=100)
    print(text)
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of videos to train on")
    parser.add_argument("--latents", type=Path, required=True, help="their latent cache")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=1500, help="without options (default 1500)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--videos", type=int, default=64, help="sampled per run (default 64)")
    args = parser.parse_args(arguments)
    for name in ("data", "latents"):
        if not getattr(args, name).is_dir():
            parser.error(f"--{name} must be a folder, got {getattr(args, name)}")
    if args.updates < 10 or args.videos < 8 or min(args.seeds) < 0:
        parser.error("--updates must be at least 10, --videos at least 8, --seeds at least 0")
    return args


def keys_of(args: argparse.Namespace, option: Option, seed: int, folder: Path) -> list[str]:
    """What one run changes in the recipe; the same compute for each option."""
    updates = updates_of(args, option)
    keys: dict[str, Any] = {
        "data.path": args.data,
        "latent_cache.path": args.latents,
        **{f"network.{name}": value for name, value in NETWORK.items()},
        "loop.output": folder,
        "loop.batch_size": 8,
        "loop.max_steps": updates,
        "loop.save_every": updates,
        "loop.seed": seed,
        "optimizer.warmup_steps": updates // 10,
        "optimizer.decay_steps": updates,
        "optimizer.ema_sigma_rels": list(EMA_WIDTHS),
        "optimizer.ema_snapshot_every": updates // 8,
        **option.keys,
    }
    return [f"{key}={value}" for key, value in keys.items()]


def updates_of(args: argparse.Namespace, option: Option) -> int:
    return round(args.updates / option.cost)


def checkpoint_of(args: argparse.Namespace, option: Option, folder: Path) -> Path:
    return folder / "checkpoints" / f"{updates_of(args, option):07d}"


def averages(args: argparse.Namespace, name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The weights of a run to sample from: label, and keys of the sampling recipe.

    Of the run without options also those without an average, and with averages of other lengths.
    """
    checkpoint = checkpoint_of(args, OPTIONS[name], folder)
    yield name, [f"weights={checkpoint}"]
    if name != BASELINE:
        return
    yield "no EMA", [f"weights={checkpoint}", "entry=model"]
    for width in EMA_WIDTHS:
        target = folder / f"ema_{width}"
        if not target.exists():
            run("tools/posthoc_ema.py", folder, f"--sigma-rel={width}", f"--target={target}")
        yield f"EMA width {width}", [f"weights={target}"]


def sampled(
    args: argparse.Namespace, weights: Sequence[str], output: Path, real: list[Features]
) -> dict[str, float]:
    """The figures of videos of all classes from these weights."""
    keys = [*weights, f"output={output}", f"num_videos={args.videos}", "formats=[mp4]"]
    recipe = ROOT / "configs" / "shapes" / "sample.yaml"
    run("scripts/sample.py", "--config", recipe, *keys)
    videos = find_videos(output)
    report = summarise([judge(path, label) for path, label in videos])
    return {name: float(report[name]) for name in list(FIGURES)[:3]} | distances_to(real, videos)


def real_features() -> Iterator[Features]:
    """Of real videos that no run is trained on."""
    for label in range(len(CLASS_NAMES)):
        for index in range(_REAL_VIDEOS):
            rng = np.random.default_rng([_REAL_SEED, label, index])
            found = features(draw_clip(label, rng, spread=_SPREAD).frames)
            assert found is not None
            yield found


def run(script: str, *arguments: Any) -> None:
    """A script of the repository in a process of its own. Exits with its output when it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stdout}{done.stderr}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    lines = ["| option | " + " | ".join(FIGURES.values()) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for option in dict.fromkeys(row["option"] for row in in_order(rows)):
        cells = []
        for name in FIGURES:
            values = np.array([row[name] for row in rows if row["option"] == option])
            scale, digits = (1.0, 2) if name in KINDS else (100.0, 1)
            mean, deviation = scale * values.mean(), scale * values.std()
            cells.append(f"{mean:.{digits}f} ± {deviation:.{digits}f}")
        lines.append(f"| {option} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel per figure, a point per run, a bar at the mean."""
    names = list(dict.fromkeys(row["option"] for row in in_order(rows)))[::-1]
    figure = Figure(figsize=(3.0 * len(FIGURES), 0.45 * len(names) + 1.0), layout="constrained")
    panels = figure.subplots(1, len(FIGURES), sharey=True)
    for panel, (name, title) in zip(panels, FIGURES.items(), strict=True):
        for place, option in enumerate(names):
            values = [row[name] for row in rows if row["option"] == option]
            panel.barh(place, np.mean(values), color="tab:blue", alpha=0.3)
            panel.plot(values, [place] * len(values), "o", color="tab:blue", markersize=4)
        panel.set_title(title + (" (lower is better)" if "distance" in title else ""), fontsize=9)
    panels[0].set_yticks(range(len(names)), names)
    return figure


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of runs in the order of `OPTIONS`, those of other averages after the others."""
    order = list(OPTIONS)
    return sorted(
        rows,
        key=lambda row: order.index(row["option"]) if row["option"] in order else len(order),
    )


if __name__ == "__main__":
    sys.exit(main())
