"""Write a T5 v1.1 encoder with random weights: `random_t5.py FOLDER [--layers 24]`.

In transformers' layout, float16, sharded, of the size of Latte-1's XXL encoder (4.76 billion
weights, 9.5 GB): to measure time and memory of encoding without a download.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from latte_ms import weights
from latte_ms.progress import progress
from latte_ms.text import T5Config
from latte_ms.text.streaming import StreamedT5Encoder
from latte_ms.weights import Spec, Tensors, mapping
from latte_ms.weights.maps import T5_ENCODER

POOL_SIZE = 1 << 24  # random numbers, reused from another offset for each tensor
SHARD_BYTES = 4_900_000_000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    options = parser.parse_args(arguments)
    write(options.folder, T5Config(num_layers=options.layers))


def write(folder: Path, config: T5Config) -> None:
    """Write config.json and the shards. Exits where the disk is too small for them."""
    shapes = StreamedT5Encoder(config, {}).shapes
    specs = {name: Spec(shape, "float16") for name, shape in shapes.items()}
    needed = 2 * sum(spec.size for spec in specs.values())
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < needed:
        sys.exit(f"{folder} needs {needed / 1e9:.1f} GB of free disk.")
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(POOL_SIZE, np.float32)
    with progress(total=len(specs), unit="tensor") as bar:

        def draw(name: str) -> np.ndarray:
            bar.update()
            shape = specs[name].shape
            if name.endswith("norm.weight"):
                return np.ones(shape, np.float16)
            rolled = np.roll(pool, int(rng.integers(POOL_SIZE)))
            values = rolled * np.float32(deviation(name, config))
            return np.resize(values, shape).astype(np.float16)

        tensors = Tensors(specs, draw, "memory")
        entries = {T5_ENCODER.entry: mapping.to_stored_layout(tensors, T5_ENCODER, {})}
        weights.write(folder, entries, shard_size=SHARD_BYTES)
    config.to_json(folder / "config.json")


def deviation(name: str, config: T5Config) -> float:
    """Standard deviation of the initial weights, roughly."""
    if name == "shared.weight":
        return 1.0
    if name == "positions.weight":
        return 0.1
    fan_in = config.d_ff if "down" in name else config.d_model
    return float(fan_in**-0.5 * (config.d_kv**-0.5 if "query" in name else 1.0))


if __name__ == "__main__":
    main()
