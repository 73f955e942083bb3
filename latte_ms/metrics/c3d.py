"""C3D (arXiv 1412.0767) with the 101 classes of UCF101, which the video inception score looks at.

It is the Caffe model as the evaluation of TGAN (arXiv 1611.06624) runs it: a mean clip is
subtracted from the pixels, and the last pooling takes a row and a column that are there in part.
The first convolution takes RGB here.

Shapes: N clips of 16 frames, C channels, H W pixels. The frames of all clips lie one after another.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, ops

from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell
from latte_ms.layers.linear import Linear
from latte_ms.metrics.i3d import Conv3d, max_pool

NUM_CLASSES = 101
NUM_FRAMES = 16
IMAGE_SIZE = 112
_LAST_SIZE = 4  # pixels of a side after five poolings: 56, 28, 14, 7, 4


class C3D(EntryCell):
    """Clips to the logits of the classes.

    Args:
        channels: of the first convolution; the others have up to 8 times as many.
        hidden_size: of the two hidden linear layers.
    """

    def __init__(self, channels: int = 64, hidden_size: int = 4096) -> None:
        super().__init__()
        shape = (NUM_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE)
        self.mean = Parameter(ops.zeros(shape, ms.float32))
        self.conv1a = Conv3d(3, channels, 3)
        self.conv2a = Conv3d(channels, 2 * channels, 3)
        self.conv3a = Conv3d(2 * channels, 4 * channels, 3)
        self.conv3b = Conv3d(4 * channels, 4 * channels, 3)
        self.conv4a = Conv3d(4 * channels, 8 * channels, 3)
        self.conv4b = Conv3d(8 * channels, 8 * channels, 3)
        self.conv5a = Conv3d(8 * channels, 8 * channels, 3)
        self.conv5b = Conv3d(8 * channels, 8 * channels, 3)
        self.fc6 = Linear(8 * channels * _LAST_SIZE**2, hidden_size)
        self.fc7 = Linear(hidden_size, hidden_size)
        self.fc8 = Linear(hidden_size, NUM_CLASSES)

    def construct(self, clips: Tensor) -> Tensor:
        """(N, 16, 3, 112, 112), RGB in 0..255 -> (N, 101)."""
        n = clips.shape[0]
        x = (clips - self.mean).reshape(-1, *clips.shape[2:])  # (N * 16, 3, 112, 112)
        x = max_pool(self.conv1a(x, 16), 16, 1, 2, 2)
        x = max_pool(self.conv2a(x, 16), 16, 2, 2, 2)  # (N * 8, ...)
        x = max_pool(self.conv3b(self.conv3a(x, 8), 8), 8, 2, 2, 2)
        x = max_pool(self.conv4b(self.conv4a(x, 4), 4), 4, 2, 2, 2)
        x = max_pool(self.conv5b(self.conv5a(x, 2), 2), 2, 2, 2, 2)  # (N, C, 4, 4)
        x = kernels.relu(self.fc6(x.reshape(n, -1)))
        return self.fc8(kernels.relu(self.fc7(x)))
