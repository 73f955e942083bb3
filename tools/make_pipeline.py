"""Write the pipeline of a text-to-video run: a folder that diffusers and `sample_t2v.py` open.

    python tools/make_pipeline.py --checkpoint outputs/t2v_train/checkpoints/0002000 --target FOLDER

The transformer is that of the checkpoint; autoencoder, text encoder and tokenizer are those that
the run's config.yaml names; the scheduler is DDIM on the schedule of the training.
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
    options = parser.parse_args(arguments)
    with config.exit_on_error():
        if options.target.exists():
            raise ValueError(f"`--target` exists: {options.target}.")
        run = config.load(TrainConfig, options.checkpoint.parents[1] / "config.yaml", [])
        if not isinstance(run, T2VTrainConfig):
            raise ValueError(f"`--checkpoint` must be of LatteT2V, is of {run.model}.")
        pipeline = build(run, options.checkpoint, options.entry, options.precision)
        pipeline.save_pretrained(options.target)
    print(options.target)
    return 0


def build(run: T2VTrainConfig, checkpoint: Path, entry: str, precision: str) -> LattePipeline:
    """The parts of a run, in one dtype. Raises OSError or ValueError where one is not there."""
    dtype = compute_dtype(precision)
    return LattePipeline(
        load_tokenizer(run.tokenizer),
        load_text_encoder(run.text_encoder, dtype),
        load_autoencoder(run.vae, dtype),
        load_transformer(checkpoint, dtype, entry=entry),
        schedulers.create("ddim", clip_sample=False, **trained_scheduler_settings(checkpoint)),
    )


if __name__ == "__main__":
    sys.exit(main())
