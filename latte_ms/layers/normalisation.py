"""Normalisations with a learned scale and, except in `RmsNorm`, a shift.

Statistics and result are float32.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import kernels


class LayerNorm(nn.Cell):
    """Zero mean and unit variance over the last axis, then weight (D,) and bias (D,)."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = Parameter(ops.ones((hidden_size,), ms.float32))
        self.bias = Parameter(ops.zeros((hidden_size,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:  # (..., D), any float dtype -> float32
        weight, bias = self.weight.astype(ms.float32), self.bias.astype(ms.float32)
        return kernels.layer_norm(x, weight, bias, self.eps)


class RmsNorm(nn.Cell):
    """Unit mean square over the last axis, then weight (D,): Zhang and Sennrich, 2019."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = Parameter(ops.ones((hidden_size,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:  # (..., D), any float dtype -> float32
        return kernels.rms_norm(x, self.weight.astype(ms.float32), self.eps)


class GroupNorm(nn.Cell):
    """Zero mean and unit variance over each of `groups` runs of channels, then weight and bias.

    Raises:
        ValueError: `channels` is not divisible by `groups`.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"`channels` (={channels}) must be divisible by `groups` (={groups}).")
        self.groups = groups
        self.eps = eps
        self.weight = Parameter(ops.ones((channels,), ms.float32))
        self.bias = Parameter(ops.zeros((channels,), ms.float32))

    def construct(self, x: Tensor, frames: int = 1) -> Tensor:
        """x (N, channels, ...) of any float dtype -> float32.

        Each `frames` consecutive rows are normalised together, as one video.
        """
        weight, bias = self.weight.astype(ms.float32), self.bias.astype(ms.float32)
        return kernels.group_norm(x, self.groups, weight, bias, self.eps, frames)
