"""Published torch files of detectors under the names of this project's networks."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latte_ms import weights
from latte_ms.metrics.packages import BN_EPS

_CONVOLUTION = re.compile(r"(.+?)(?:\.conv|\.conv3d)\.weight")
# What a file may hold besides, and no feature needs.
_UNUSED = re.compile(r".*\.num_batches_tracked|fc\.bias|AuxLogits\..*")


def read_folded(path: Path) -> dict[str, np.ndarray]:
    """The weights of a file of convolutions with batch normalisation, which becomes part of them.

    Such are StyleGAN-V's i3d_torchscript.pt and the i3d_pretrained_400.pt of cd-fvd, with modules
    `conv3d` and `bn` in each unit, and the pt_inception-2015-12-05-6726825d.pth of pytorch-fid,
    with `conv` and `bn`.

    Raises WeightError for a file that cannot be read.
    """
    return folded(weights.read(path))


def folded(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels times the scale of their normalisation, and biases, float32; see `read_folded`."""
    found: dict[str, np.ndarray] = {}
    for name in tensors:
        match = _CONVOLUTION.fullmatch(name)
        if match is None:
            continue
        unit, parent = match[1], name.removesuffix(".weight")
        kernel = tensors[name].astype(np.float64)
        bias = tensors.get(f"{parent}.bias")
        if f"{unit}.bn.running_var" in tensors:
            scale = 1.0 / np.sqrt(tensors[f"{unit}.bn.running_var"].astype(np.float64) + BN_EPS)
            scale = scale * tensors.get(f"{unit}.bn.weight", 1.0)
            shift = tensors.get(f"{unit}.bn.bias", 0.0)
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            bias = shift - tensors[f"{unit}.bn.running_mean"] * scale
        found[f"{unit}.weight"] = kernel.astype(np.float32)
        found[f"{unit}.bias"] = np.asarray(bias, np.float32)
    for name in tensors:
        folds = _CONVOLUTION.fullmatch(name) or ".bn." in name or name.endswith("conv3d.bias")
        if not folds and not _UNUSED.fullmatch(name):
            found[name] = tensors[name].astype(np.float32)
    return found
