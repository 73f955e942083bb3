"""Samples of several weights of one network, compiled once.

    python examples/moving_shapes/sample_each.py --config configs/shapes/sample.yaml \\
        --weights outputs/run/checkpoints/0000500 --weights outputs/run/checkpoints/0001000 \\
        output=outputs/run/samples num_videos=64 "classes=[]"

The recipe of `sample.py`, LoRA included, is run with each of the weights; the videos go to a folder
in `output` with the name of theirs. Checkpoints must record one network and one diffusion process.
PATH:model and PATH:ema take that entry of a checkpoint; the folder's name
is then NAME_model or NAME_ema.
"""

import argparse
import logging
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from latte_ms import config, runtime
from latte_ms.config import exit_on_error
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.sample_folder import SampleFolder
from latte_ms.media import prepare_folder
from latte_ms.messages import differences
from latte_ms.progress import progress
from scripts import sample

ENTRIES = ("ema", "model")


@dataclass(frozen=True)
class Weights:
    """One of the weights of a network: a file or a checkpoint folder, and its entry."""

    path: Path
    entry: str = ""  # ema or model; empty: the recipe's

    @classmethod
    def read(cls, text: str) -> "Weights":
        """From PATH or PATH:ENTRY."""
        path, _, entry = text.rpartition(":")
        return cls(Path(path), entry) if path and entry in ENTRIES else cls(Path(text))

    def __str__(self) -> str:
        return f"{self.path}:{self.entry}" if self.entry else str(self.path)

    @property
    def name(self) -> str:
        """Of the folder of the videos."""
        return f"{self.path.name}_{self.entry}" if self.entry else self.path.name


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    with exit_on_error():
        recipes = [recipe_of(args.config, args.overrides, one) for one in args.weights]
        for one in recipes:
            check_alike(recipes[0], one)
        for one in recipes:
            prepare_folder(one.output)
        rank = runtime.setup(recipes[0].runtime)
        for one in recipes:
            known = partial(sample.record_of, one)
            SampleFolder(one.output, one.files, rank).check(known, one.stems)
        sampler = sample.build(recipes[0])
        for one in progress(recipes, unit="weights", desc="sampling"):
            if one is not recipes[0]:
                sample.fill_network(sampler.network, one)
            with SampleFolder(one.output, one.files, rank) as folder:
                sample.fill(one, sampler, folder, rank)
    return 0


def check_alike(first: LatteRecipe, other: LatteRecipe) -> None:
    """Raise ValueError, naming what differs, unless one sampler serves the weights of both."""
    sections = ("network", "sampler")
    ours, theirs = (
        {name: asdict(getattr(recipe, name)) for name in sections} for recipe in (first, other)
    )
    found = [f"{key} is {one} and {two}" for key, one, two in differences(ours, theirs)]
    if found:
        raise ValueError(
            "--weights must be of one network and one diffusion process, got "
            f"{first.weights} and {other.weights}: {'; '.join(found)}."
        )


def recipe_of(path: str, overrides: list[str], source: Weights) -> LatteRecipe:
    """The recipe with these weights. Raises ValueError or OSError where they do not fit."""
    keys = [*overrides, f"weights={source.path}"]
    keys += [f"entry={source.entry}"] if source.entry else []
    output = Path(config.load(LatteRecipe, path, keys).output) / source.name
    recipe = config.load(LatteRecipe, path, [*keys, f"output={output}"])
    recipe.check_files()
    return recipe


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="recipe of sample.py")
    parser.add_argument(
        "--weights", type=Weights.read, action="append", required=True, metavar="PATH[:ENTRY]"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(arguments)
    names = [one.name for one in args.weights]
    if len(set(names)) < len(names):
        parser.error(f"--weights must have different names, got {', '.join(names)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
