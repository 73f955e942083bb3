"""Every function of the kernel layer as one graph, and the inputs that all graphs are made of."""

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from latte_ms.layers import convolution_kernels, kernels

Inputs = tuple[Tensor | None, ...]
# A cell and its positional arguments, and where it has any its keyword arguments.
Graph = tuple[nn.Cell, Inputs] | tuple[nn.Cell, Inputs, dict[str, Tensor]]


def normal(*shape: int, dtype: ms.Type = ms.float32) -> Tensor:
    """Values do not matter, their dtype and shape do."""
    return Tensor(np.ones(shape), dtype)


def integers(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int32))


class Kernels(nn.Cell):
    """One number that depends on every function of `layers.kernels`, and on parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = ms.Parameter(normal(8, 16), "labels")
        self.table = ms.Parameter(normal(16, 16), "table")
        self.row = ms.Parameter(normal(16), "row")
        self.filters = ms.Parameter(normal(16, 16, 3, 3), "filters")

    def construct(self, x: Tensor, image: Tensor, index: Tensor) -> Tensor:
        """x (B, N, 16), image (B, 16, H, W), index (B,) int32."""
        row = self.row
        y = kernels.linear(x, self.table, row)
        y = y + kernels.embedding(index, self.labels).reshape(-1, 1, 16)
        y = y + kernels.gather_columns(self.table, index).transpose(1, 0).reshape(-1, 1, 16)
        y = y + kernels.gather_rows(self.table, index).reshape(-1, 1, 16)
        y = kernels.gelu(kernels.layer_norm(y, row, row, 1e-6))
        y = kernels.softmax(kernels.silu(kernels.layer_norm(y, None, None, 1e-6)))
        y = kernels.rms_norm(y, row, 1e-6)
        y = kernels.divide(kernels.exp(kernels.clamp(y, 1e-12, None)), row * row + 1.0)
        y = ops.matmul(kernels.transpose(kernels.matmul_transposed(y, y), (0, 2, 1)), y)
        first, second = kernels.split(y, 8, -1)
        y = kernels.concat((second, first), -1)
        first, second = kernels.split_first(y, 4, 2)
        y = kernels.concat((second, first), 2) + kernels.zeros_like(y)
        q = y.astype(ms.float16)
        q = kernels.flash_attention(q, q, q, 1, 0.25)
        # Heads are padded from 8 to 16.
        q = kernels.flash_attention(q, q, q, 2, 0.5, kernels.mean(x, (2,)))
        y = kernels.where(x > 0.5, y, q.astype(ms.float32))
        z = kernels.group_norm(kernels.pad(image, (1, 0, 1, 0)), 4, row, row, 1e-6)
        z = convolution_kernels.conv2d(z, self.filters, row, 2, (0, 1, 0, 1))
        z = convolution_kernels.conv2d(z, self.filters, row, 1, (1, 1, 1, 1))
        z = kernels.group_norm(z, 4, row, row, 1e-6, frames=2)
        z = convolution_kernels.conv2d_upsampled(z, self.filters, row)
        # What no training uses: without gradients.
        w = kernels.exact_gelu(kernels.relu(ops.stop_gradient(z)))
        w = convolution_kernels.max_pool2d(w, 3, 2, (0, 1, 0, 1))
        w = kernels.maximum(w, kernels.sqrt(kernels.sum_over(w * w, 1, keepdim=True)))
        w = convolution_kernels.average_pool2d(w)
        result = kernels.total(y * y) + kernels.total(kernels.mean(z * z, (2, 3)))
        return result + kernels.total(w)


class Gradient(nn.Cell):
    """Value and gradients of a cell's result with respect to its parameters."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        weights = ParameterTuple(network.trainable_params())
        self.gradient = ms.value_and_grad(network, None, weights)

    def construct(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.gradient(*inputs)


def all_kernels() -> Graph:
    inputs = (normal(2, 4, 16), normal(2, 16, 7, 7), integers(0, 1))
    return Gradient(Kernels()), inputs
