"""LPIPS (arXiv 1801.03924, version 0.1): distance of images by the features of AlexNet or VGG16.

Shapes: N images, H W pixels, C channels.
"""

from dataclasses import dataclass
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.layers import convolution_kernels, kernels
from latte_ms.layers.convolution import Conv2d
from latte_ms.layers.entry import EntryCell

Backbone = Literal["alexnet", "vgg16"]

_SHIFT = (-0.030, -0.088, -0.188)  # of pixel values in [-1, 1]
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10


@dataclass(frozen=True)
class _Layer:
    """A convolution with ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # size of the pooling before it, with a stride of 2; 0: none
    tapped: bool = False  # whether its output is compared


_LAYERS: dict[Backbone, tuple[_Layer, ...]] = {
    "alexnet": (
        _Layer(64, 11, 4, 2, tapped=True),
        _Layer(192, 5, 1, 2, pool=3, tapped=True),
        _Layer(384, pool=3, tapped=True),
        _Layer(256, tapped=True),
        _Layer(256, tapped=True),
    ),
    "vgg16": (
        *(_Layer(64), _Layer(64, tapped=True)),
        *(_Layer(128, pool=2), _Layer(128, tapped=True)),
        *(_Layer(256, pool=2), _Layer(256), _Layer(256, tapped=True)),
        *(_Layer(512, pool=2), _Layer(512), _Layer(512, tapped=True)),
        *(_Layer(512, pool=2), _Layer(512), _Layer(512, tapped=True)),
    ),
}
# Images must leave a pixel at the last convolution.
LEAST_SIZE: dict[Backbone, int] = {"alexnet": 31, "vgg16": 16}


class LPIPS(EntryCell):
    """Distances of pairs of images.

    Args:
        backbone: alexnet, which papers on step caches use, or vgg16.
    """

    def __init__(self, backbone: Backbone = "alexnet") -> None:
        super().__init__()
        layers = _LAYERS[backbone]
        inputs = [3, *(layer.channels for layer in layers)]
        self.convolutions = nn.CellList(
            [
                Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
                for channels, layer in zip(inputs, layers, strict=False)
            ]
        )
        self.heads = nn.CellList([Head(one.channels) for one in layers if one.tapped])
        self.pools = tuple(layer.pool for layer in layers)
        self.tapped = tuple(layer.tapped for layer in layers)

    def construct(self, first: Tensor, second: Tensor) -> Tensor:
        """(N, 3, H, W) each, in [-1, 1] -> (N,)."""
        count = first.shape[0]
        shift, scale = _channels()
        x = (kernels.concat((first, second), 0) - shift) * scale
        distance, taps = 0.0, 0
        for index in range(len(self.pools)):
            if self.pools[index]:
                x = convolution_kernels.max_pool2d(x, self.pools[index], 2, (0, 0, 0, 0))
            x = kernels.relu(self.convolutions[index](x))
            if self.tapped[index]:
                distance = distance + self.heads[taps](x, count)
                taps = taps + 1
        return distance


class Head(nn.Cell):
    """The share of one layer: a weight per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = Parameter(ops.zeros((1, channels, 1, 1), ms.float32))

    def construct(self, x: Tensor, count: int) -> Tensor:
        """(2 * count, C, h, w) -> (count,)"""
        length = kernels.sqrt(kernels.sum_over(x * x, 1, keepdim=True))
        x = kernels.divide(x, length + _EPS)
        first, second = kernels.split(x, count, 0)
        difference = first - second
        weighted = kernels.sum_over(self.weight * difference * difference, 1)
        return kernels.mean(weighted, (1, 2))


@constexpr
def _channels() -> tuple[Tensor, Tensor]:
    """Shift, and what to multiply with, (1, 3, 1, 1)."""
    shift, scale = np.array(_SHIFT, np.float32), np.array(_SCALE, np.float32)
    return Tensor(shift.reshape(1, 3, 1, 1)), Tensor((1 / scale).reshape(1, 3, 1, 1))
