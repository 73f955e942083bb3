"""Published weights of C3D on UCF101 under the names of this project's network.

They all come from one Caffe model, which sees BGR; here the order is turned in the weights.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latte_ms import weights
from latte_ms.messages import one_line
from latte_ms.metrics.array_files import DAMAGE
from latte_ms.metrics.c3d import IMAGE_SIZE, NUM_FRAMES
from latte_ms.weights import WeightError

_LAYERS = (
    *("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"),
    *("fc6", "fc7", "fc8"),
)
_OTHER_NAMES = {"conv1": "conv1a", "conv2": "conv2a", "prob": "fc8"}
_LEAVES = {"W": "weight", "b": "bias", "weight": "weight", "bias": "bias"}
_NAME = re.compile(rf"(?:.+[./])?({'|'.join((*_LAYERS, *_OTHER_NAMES))})[./]({'|'.join(_LEAVES)})")
_MEAN_SIZE = (128, 171)  # of the frames that the mean clip was computed of: height, width
_MEAN_CROP = 8  # rows and columns before the 112 that TGAN's network takes of it


def read_c3d(path: Path, mean: Path) -> dict[str, np.ndarray]:
    """The weights of a file, and the mean clip, as arrays of `C3D`.

    Args:
        path: chainer's conv3d_deepnetA_ucf.npz of TGAN, with names such as conv1a/W, or a torch
            file, TorchScript included, with names such as conv1a.weight or conv1.weight, which may
            have something in front. Other tensors of such a file are left out.
        mean: mean2.npz of TGAN.
    Raises:
        WeightError: a file cannot be read, or does not hold what it should.
    """
    stored = _arrays(path) if path.suffix == ".npz" else weights.read(path)
    found: dict[str, np.ndarray] = {}
    for name in stored:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        ours = f"{_OTHER_NAMES.get(match[1], match[1])}.{_LEAVES[match[2]]}"
        if ours in found:
            raise WeightError(f"{path} must hold {ours} once, got two tensors of such a name.")
        found[ours] = np.asarray(stored[name], np.float32)
    missing = [f"{layer}.weight" for layer in _LAYERS if f"{layer}.weight" not in found]
    if missing:
        raise WeightError(f"{path} must hold the layers of C3D; it lacks {', '.join(missing)}.")
    first = found["conv1a.weight"]
    if first.ndim != 5 or first.shape[1] != 3:
        raise WeightError(
            f"{path}: conv1a must have the shape (out, 3, 3, 3, 3), got {first.shape}."
        )
    found["conv1a.weight"] = np.ascontiguousarray(first[:, ::-1])
    found["mean"] = read_mean(mean)
    return found


def read_mean(path: Path) -> np.ndarray:
    """The part of the mean clip that TGAN's network subtracts, RGB, (16, 3, 112, 112) float32.

    Raises WeightError for a file that holds no array `mean` of 3 x 16 x 128 x 171 values.
    """
    arrays = _arrays(path)
    shape = (3, NUM_FRAMES, *_MEAN_SIZE)
    if "mean" not in arrays or arrays["mean"].size != np.prod(shape):
        raise WeightError(f"{path} must hold an array `mean` of {shape} values.")
    rows = slice(_MEAN_CROP, _MEAN_CROP + IMAGE_SIZE)
    mean = arrays["mean"].reshape(shape)[::-1, :, rows, rows]
    return np.ascontiguousarray(mean.transpose(1, 0, 2, 3), np.float32)


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    """All arrays of an npz file, numbers alone. Raises WeightError where it cannot be read."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is a single array")
        with file:
            return {name: file[name] for name in file.files}
    except DAMAGE as error:
        raise WeightError(f"{path} must be an npz file of arrays ({one_line(error)}).") from error
