"""Start the training on combinations from a Latte whose class is a direction.

    python examples/moving_shapes/combine_labels.py --source CHECKPOINT --target FILE.safetensors

CHECKPOINT is a folder of a run with `configs/shapes/train.yaml`. In FILE each of the 192 classes
of `make_shapes.py --combinations` has the embedding of its direction, plus a random vector for its
colour and one for its shape. What a colour looks like is then learned once for all classes that
have it, and not 32 times. FILE is for `initial_weights` of `train_combinations.yaml`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from examples.moving_shapes.shapes import CLASS_NAMES, COLOURS, COMBINATIONS, SHAPES
from latte_ms import config, weights

_TABLE = "y_embedder.embedding_table.weight"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="checkpoint or file to read")
    parser.add_argument("--target", type=Path, required=True, help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random vectors")
    args = parser.parse_args()
    with config.exit_on_error():
        if args.target.exists():
            raise ValueError(f"`--target` exists: {args.target}.")
        source = weights.read(args.source, "ema")
        arrays = {name: np.asarray(source[name], np.float32) for name in source}
        if _TABLE not in arrays:
            raise ValueError(f"`--source` must be of a Latte with classes: {args.source}.")
        arrays[_TABLE] = combined(arrays[_TABLE], np.random.default_rng(args.seed))
        weights.write(args.target, {"ema": weights.from_arrays(arrays)})
    print(args.target)
    return 0


def combined(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The embeddings (193, D) of all combinations and of no class, from those (9, D) of directions.

    The random vectors are about as long as what tells two directions apart. Raises ValueError for
    a table of another length.
    """
    if len(table) != len(CLASS_NAMES) + 1:
        raise ValueError(
            f"`table` must have {len(CLASS_NAMES) + 1} rows, directions and no class, got "
            f"{len(table)}."
        )
    directions = table[:-1]
    scale = (directions - directions.mean(0)).std()
    colours, shapes = (
        {name: scale * rng.standard_normal(table.shape[1]) for name in names}
        for names in (COLOURS, SHAPES)
    )
    rows = [directions[d] + colours[colour] + shapes[shape] for d, colour, shape in COMBINATIONS]
    return np.stack([*rows, table[-1]]).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
