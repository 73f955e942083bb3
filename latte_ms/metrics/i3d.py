"""I3D on RGB (arXiv 1705.07750), the network whose logits the Fréchet video distance compares.

All paddings are TensorFlow's "same": ceil(n / stride) outputs, with the smaller half of the padding
in front. Batch normalisation is part of the weights. A 3-D kernel is a 2-D one over neighbouring
frames that are joined along the channels: the same sums on all backends, where an Ascend has no 3-D
convolution in float32.

Shapes: N videos, T frames, C channels, H W pixels. The frames of all videos lie one after another.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from latte_ms.layers import convolution_kernels, kernels
from latte_ms.layers.entry import EntryCell

NUM_CLASSES = 400  # of Kinetics; the length of a feature
IMAGE_SIZE = 224
MIN_FRAMES = 9  # fewer leave one frame for the last pooling, which takes two

# Channels of b0, b1a, b1b, b2a, b2b and b3b.
_MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class Conv3d(nn.Cell):
    """Convolution with a kernel k x k x k, then ReLU, unless `activates` is false.

    The weight is (out, in, k, k, k), the bias (out,). After `prepare` the weight is
    (out, k * in, k, k).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        activates: bool = True,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.activates = kernel, stride, activates
        shape = (out_channels, in_channels, kernel, kernel, kernel)
        self.weight = Parameter(ops.zeros(shape, ms.float32))
        self.bias = Parameter(ops.zeros((out_channels,), ms.float32))

    def construct(self, x: Tensor, frames: int) -> Tensor:
        """(N * frames, in, H, W) -> (N * ceil(frames / stride), out, ceil(H / stride), ...)."""
        if self.kernel > 1:
            x = windows(x, frames, self.kernel, self.stride)
        before, after = same_padding(x.shape[2], self.kernel, self.stride)
        padding = (before, after, before, after)
        y = convolution_kernels.conv2d(x, self._kernel(), self.bias, self.stride, padding)
        return kernels.relu(y) if self.activates else y

    def prepare(self) -> None:
        """Join the frames of the kernel with its channels once, and not in each call."""
        weight = self.weight.asnumpy().transpose(0, 2, 1, 3, 4)
        joined = weight.reshape(len(weight), -1, self.kernel, self.kernel)
        self.weight = Parameter(Tensor(np.ascontiguousarray(joined)), name=self.weight.name)

    def _kernel(self) -> Tensor:
        """Over the channels of `windows`."""
        if self.weight.ndim == 4:
            return self.weight
        out, size = self.weight.shape[0], self.kernel
        return self.weight.transpose(0, 2, 1, 3, 4).reshape(out, -1, size, size)


def prepare(network: nn.Cell) -> None:
    """Make the convolutions of `network` faster: its weights no longer have the layout of files."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, Conv3d):
            cell.prepare()


class Mixed(nn.Cell):
    """Four branches, joined along the channels: 1x1x1, twice 1x1x1 and 3x3x3, pooled and 1x1x1."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = channels
        self.b0 = Conv3d(in_channels, b0, 1)
        self.b1a, self.b1b = Conv3d(in_channels, b1a, 1), Conv3d(b1a, b1b, 3)
        self.b2a, self.b2b = Conv3d(in_channels, b2a, 1), Conv3d(b2a, b2b, 3)
        self.b3b = Conv3d(in_channels, b3, 1)

    def construct(self, x: Tensor, frames: int) -> Tensor:
        second = self.b1b(self.b1a(x, frames), frames)
        third = self.b2b(self.b2a(x, frames), frames)
        pooled = self.b3b(max_pool(x, frames, 3, 3, 1), frames)
        return kernels.concat((self.b0(x, frames), second, third, pooled), 1)


class I3D(EntryCell):
    """Frames to the 400 logits of Kinetics."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Conv3d(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Conv3d(64, 64, 1)
        self.Conv3d_2c_3x3 = Conv3d(64, 192, 3)
        mixed, channels = [], 192
        for name, branches in _MIXED.items():
            mixed.append(Mixed(channels, branches))
            setattr(self, name, mixed[-1])
            channels = branches[0] + branches[2] + branches[4] + branches[5]
        self.logits = Conv3d(channels, NUM_CLASSES, 1, activates=False)

    def construct(self, videos: Tensor) -> Tensor:
        """(N, T, 3, 224, 224) in [-1, 1], T at least 9 -> (N, 400)."""
        n, frames = videos.shape[0], videos.shape[1]
        x = self.Conv3d_1a_7x7(videos.reshape(n * frames, *videos.shape[2:]), frames)
        frames = half(frames)
        x = max_pool(x, frames, 1, 3, 2)
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x, frames), frames)
        x = max_pool(x, frames, 1, 3, 2)
        x = self.Mixed_3c(self.Mixed_3b(x, frames), frames)
        x = max_pool(x, frames, 3, 3, 2)
        frames = half(frames)
        x = self.Mixed_4c(self.Mixed_4b(x, frames), frames)
        x = self.Mixed_4e(self.Mixed_4d(x, frames), frames)
        x = max_pool(self.Mixed_4f(x, frames), frames, 2, 2, 2)
        frames = half(frames)
        x = self.Mixed_5c(self.Mixed_5b(x, frames), frames)
        x = kernels.mean(x, (2, 3)).reshape(n, frames, -1)
        # The (2, 7, 7) average pooling, the 1x1x1 convolution and the mean over time are linear:
        # one weighted mean of the frames, then the logits.
        x = kernels.sum_over(x * _pair_shares(frames), 1).reshape(n, -1, 1, 1)
        return self.logits(x, 1).reshape(n, NUM_CLASSES)


def half(frames: int) -> int:
    """How many frames a stride of 2 leaves."""
    return (frames + 1) // 2


def max_pool(x: Tensor, frames: int, duration: int, size: int, stride: int) -> Tensor:
    """Largest value of each window of `duration` frames and size x size pixels.

    x (N * frames, C, H, W) must not be negative: the padding is zero. `stride` is that of the
    pixels, and that of the frames where windows hold more than one.
    """
    before, after = same_padding(x.shape[2], size, stride)
    x = convolution_kernels.max_pool2d(x, size, stride, (before, after, before, after))
    if duration == 1:
        return x
    largest = frames_of(x, frames, duration, stride, 0)
    for tap in range(1, duration):
        largest = kernels.maximum(largest, frames_of(x, frames, duration, stride, tap))
    return largest


def windows(x: Tensor, frames: int, duration: int, stride: int) -> Tensor:
    """The `duration` frames of each window, one after another, joined along the channels.

    x (N * frames, C, H, W) -> (N * ceil(frames / stride), duration * C, H, W).
    """
    _, channels, height, width = x.shape
    places = window_places(x.shape[0], frames, duration, stride)
    return _chosen(x, places).reshape(-1, duration * channels, height, width)


def frames_of(x: Tensor, frames: int, duration: int, stride: int, tap: int) -> Tensor:
    """Frame number `tap` of each window: (N * ceil(frames / stride), C, H, W)."""
    return _chosen(x, window_places(x.shape[0], frames, duration, stride)[tap::duration])


@constexpr
def window_places(count: int, frames: int, duration: int, stride: int) -> tuple[int, ...]:
    """The frames of each window in turn, of `count` of all videos.

    `count` itself stands for a frame of zeros, in front of a video or behind it.
    """
    before, _ = same_padding(frames, duration, stride)
    places: tuple[int, ...] = ()
    for video in range(0, count, frames):
        for start in range(-before, frames - before, stride):
            for place in range(start, start + duration):
                places = (*places, video + place if 0 <= place < frames else count)
    return places


def _chosen(x: Tensor, places: tuple[int, ...]) -> Tensor:
    """These frames of x, as slices of it: an index has no fast kernel on an Ascend."""
    images = (*kernels.split(x, 1, 0), kernels.zeros_like(kernels.split(x, 1, 0)[0]))
    return kernels.concat(tuple(images[place] for place in places), 0)


@constexpr
def _pair_shares(frames: int) -> Tensor:
    """How much each frame counts in the mean of means of two neighbours, (1, F, 1)."""
    inner = np.ones(frames)
    inner[0] = inner[-1] = 0.5
    return Tensor((inner / (frames - 1)).reshape(1, -1, 1).astype(np.float32))


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros in front and behind that give ceil(length / stride) outputs."""
    count = (length + stride - 1) // stride
    total = max((count - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2
