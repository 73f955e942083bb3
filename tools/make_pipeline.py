"""Write the pipeline of a text-to-video run: a folder that diffusers and `sample_t2v.py` open.

    python tools/make_pipeline.py --checkpoint outputs/t2v_train/checkpoints/0002000 --target FOLDER

The transformer is that of the checkpoint; autoencoder, text encoder and tokenizer are those that
the run's config.yaml names, or the options of these names: a run that was trained from caches may
name none. The scheduler is DDIM on the schedule of the training.
"""

import argparse
import sys
from pathlib import Path

from latte_ms import LattePipeline, config, schedulers
from latte_ms.generation.text_recipe import trained_scheduler_settings
from latte_ms.runtime import PRECISIONS, compute_dtype
from latte_ms.text import load_tokenizer
from latte_ms.training.recipe import T2VTrainConfig, TrainConfig
from latte_ms.weights.pretrained import load_autoencoder, load_text_encoder, load_transformer

_PARTS = ("vae", "text_encoder", "tokenizer")  # keys of a run: folders in diffusers' layout


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True, help="folder to write")
    parser.add_argument("--entry", choices=("ema", "model"), default="ema")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="that weights are written in"
    )
    for name in _PARTS:
        parser.add_argument(_option(name), metavar="FOLDER", help="default: that of the run")
    options = parser.parse_args(arguments)
    with config.exit_on_error():
        if options.target.exists():
            raise ValueError(f"`--target` exists: {options.target}.")
        run = config.load(TrainConfig, options.checkpoint.parents[1] / "config.yaml", [])
        if not isinstance(run, T2VTrainConfig):
            raise ValueError(f"`--checkpoint` must be of LatteT2V, is of {run.model}.")
        folders = {name: getattr(options, name) or getattr(run, name) for name in _PARTS}
        for name, folder in folders.items():
            if not folder:
                raise ValueError(f"`{_option(name)}` must be given: the run names no `{name}`.")
        pipeline = build(folders, options.checkpoint, options.entry, options.precision)
        pipeline.save_pretrained(options.target)
    print(options.target)
    return 0


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def build(folders: dict[str, str], checkpoint: Path, entry: str, precision: str) -> LattePipeline:
    """The parts in `folders`, by the names of `_PARTS`, and the transformer, in one dtype.

    Raises OSError or ValueError where one is not there.
    """
    dtype = compute_dtype(precision)
    return LattePipeline(
        load_tokenizer(folders["tokenizer"]),
        load_text_encoder(folders["text_encoder"], dtype),
        load_autoencoder(folders["vae"], dtype),
        load_transformer(checkpoint, dtype, entry=entry),
        schedulers.create("ddim", clip_sample=False, **trained_scheduler_settings(checkpoint)),
    )


if __name__ == "__main__":
    sys.exit(main())
