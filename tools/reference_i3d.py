"""I3D in PyTorch, written for comparison: 3-D convolutions and poolings with "same" padding."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """x (N, C, T, H, W) with TensorFlow's zeros around its last three axes."""
    widths: list[int] = []
    for length, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-length // s) - 1) * s + k - length, 0)
        widths = [total // 2, total - total // 2, *widths]
    return functional.pad(x, widths)


def convolution(x: Tensor, weights: Mapping[str, Tensor], name: str, stride: int = 1) -> Tensor:
    weight = weights[f"{name}.weight"]
    kernel = tuple(weight.shape[2:])
    x = same(x, kernel, (stride,) * 3)
    return functional.conv3d(x, weight, weights[f"{name}.bias"], stride)


def pooling(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return functional.max_pool3d(same(x, kernel, stride), kernel, stride)


def mixed(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    def unit(y: Tensor, branch: str) -> Tensor:
        return functional.relu(convolution(y, weights, f"{name}.{branch}"))

    pooled = pooling(x, (3, 3, 3), (1, 1, 1))
    branches = (
        unit(x, "b0"),
        unit(unit(x, "b1a"), "b1b"),
        unit(unit(x, "b2a"), "b2b"),
        unit(pooled, "b3b"),
    )
    return torch.cat(branches, 1)


def logits(videos: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, T, 3, 224, 224) -> (N, 400)."""
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    x = torch.from_numpy(videos).transpose(1, 2)
    with torch.no_grad():
        x = functional.relu(convolution(x, weights, "Conv3d_1a_7x7", 2))
        x = pooling(x, (1, 3, 3), (1, 2, 2))
        for name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3"):
            x = functional.relu(convolution(x, weights, name))
        x = pooling(x, (1, 3, 3), (1, 2, 2))
        for name in ("Mixed_3b", "Mixed_3c"):
            x = mixed(x, weights, name)
        x = pooling(x, (3, 3, 3), (2, 2, 2))
        for letter in "bcdef":
            x = mixed(x, weights, f"Mixed_4{letter}")
        x = pooling(x, (2, 2, 2), (2, 2, 2))
        for name in ("Mixed_5b", "Mixed_5c"):
            x = mixed(x, weights, name)
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        x = convolution(x, weights, "logits")
        return x[..., 0, 0].mean(2).numpy()
