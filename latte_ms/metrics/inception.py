"""Inception v3 as the Fréchet inception distance uses it: the network of 2015 with 1008 classes.

It is torchvision's with the average poolings over existing pixels alone and a maximum in the last
block. Batch normalisation is part of the weights, which have torchvision's names otherwise.

Shapes: N images, C channels, H W pixels.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import convolution_kernels, kernels
from latte_ms.layers.entry import EntryCell

IMAGE_SIZE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008

_Kernel = int | tuple[int, int]


class ConvReLU(nn.Cell):
    """Convolution and ReLU; the padding keeps the size, unless `shrinks`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: _Kernel,
        stride: int = 1,
        shrinks: bool = False,
    ) -> None:
        super().__init__()
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.stride = stride
        sides = (0, 0) if shrinks else (rows // 2, columns // 2)
        self.padding = (sides[0], sides[0], sides[1], sides[1])
        self.weight = Parameter(ops.zeros((out_channels, in_channels, rows, columns), ms.float32))
        self.bias = Parameter(ops.zeros((out_channels,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        y = convolution_kernels.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return kernels.relu(y)


class InceptionA(nn.Cell):
    """35 x 35 pixels: 1x1, 5x5, twice 3x3, average."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvReLU(channels, 64, 1)
        self.branch5x5_1 = ConvReLU(channels, 48, 1)
        self.branch5x5_2 = ConvReLU(48, 64, 5)
        self.branch3x3dbl_1 = ConvReLU(channels, 64, 1)
        self.branch3x3dbl_2 = ConvReLU(64, 96, 3)
        self.branch3x3dbl_3 = ConvReLU(96, 96, 3)
        self.branch_pool = ConvReLU(channels, pooled, 1)

    def construct(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return kernels.concat(
            (
                self.branch1x1(x),
                five,
                three,
                self.branch_pool(convolution_kernels.average_pool2d(x)),
            ),
            1,
        )


class InceptionB(nn.Cell):
    """35 x 35 to 17 x 17 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvReLU(channels, 384, 3, 2, shrinks=True)
        self.branch3x3dbl_1 = ConvReLU(channels, 64, 1)
        self.branch3x3dbl_2 = ConvReLU(64, 96, 3)
        self.branch3x3dbl_3 = ConvReLU(96, 96, 3, 2, shrinks=True)

    def construct(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return kernels.concat((self.branch3x3(x), three, shrunk(x)), 1)


class InceptionC(nn.Cell):
    """17 x 17 pixels: 7x7 as rows and columns."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvReLU(channels, 192, 1)
        self.branch7x7_1 = ConvReLU(channels, inner, 1)
        self.branch7x7_2 = ConvReLU(inner, inner, row)
        self.branch7x7_3 = ConvReLU(inner, 192, column)
        self.branch7x7dbl_1 = ConvReLU(channels, inner, 1)
        self.branch7x7dbl_2 = ConvReLU(inner, inner, column)
        self.branch7x7dbl_3 = ConvReLU(inner, inner, row)
        self.branch7x7dbl_4 = ConvReLU(inner, inner, column)
        self.branch7x7dbl_5 = ConvReLU(inner, 192, row)
        self.branch_pool = ConvReLU(channels, 192, 1)

    def construct(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return kernels.concat(
            (
                self.branch1x1(x),
                seven,
                double,
                self.branch_pool(convolution_kernels.average_pool2d(x)),
            ),
            1,
        )


class InceptionD(nn.Cell):
    """17 x 17 to 8 x 8 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvReLU(channels, 192, 1)
        self.branch3x3_2 = ConvReLU(192, 320, 3, 2, shrinks=True)
        self.branch7x7x3_1 = ConvReLU(channels, 192, 1)
        self.branch7x7x3_2 = ConvReLU(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvReLU(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvReLU(192, 192, 3, 2, shrinks=True)

    def construct(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return kernels.concat((three, self.branch7x7x3_4(seven), shrunk(x)), 1)


class InceptionE(nn.Cell):
    """8 x 8 pixels; the last one of the two takes the largest of neighbours, not their average."""

    def __init__(self, channels: int, takes_largest: bool) -> None:
        super().__init__()
        self.takes_largest = takes_largest
        self.branch1x1 = ConvReLU(channels, 320, 1)
        self.branch3x3_1 = ConvReLU(channels, 384, 1)
        self.branch3x3_2a = ConvReLU(384, 384, (1, 3))
        self.branch3x3_2b = ConvReLU(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvReLU(channels, 448, 1)
        self.branch3x3dbl_2 = ConvReLU(448, 384, 3)
        self.branch3x3dbl_3a = ConvReLU(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvReLU(384, 384, (3, 1))
        self.branch_pool = ConvReLU(channels, 192, 1)

    def construct(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        if self.takes_largest:
            pooled = convolution_kernels.max_pool2d(x, 3, 1, (1, 1, 1, 1))
        else:
            pooled = convolution_kernels.average_pool2d(x)
        branches = (
            self.branch1x1(x),
            *(self.branch3x3_2a(three), self.branch3x3_2b(three)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
            self.branch_pool(pooled),
        )
        return kernels.concat(branches, 1)


class Inception(EntryCell):
    """Images to the features of the last pooling and to logits without their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvReLU(3, 32, 3, 2, shrinks=True)
        self.Conv2d_2a_3x3 = ConvReLU(32, 32, 3, shrinks=True)
        self.Conv2d_2b_3x3 = ConvReLU(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvReLU(80, 192, 3, shrinks=True)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, takes_largest=False)
        self.Mixed_7c = InceptionE(2048, takes_largest=True)
        self.fc = Classifier(NUM_FEATURES, NUM_CLASSES)

    def construct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 299, 299) in [-1, 1] -> (N, 2048), (N, 1008)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(shrunk(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(shrunk(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = kernels.mean(x, (2, 3))
        return features, self.fc(features)


class Classifier(nn.Cell):
    """Logits without their bias, as the inception score uses them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = Parameter(ops.zeros((out_channels, in_channels), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.weight)


def shrunk(x: Tensor) -> Tensor:
    """The largest value of 3 x 3 pixels, with a stride of 2."""
    return convolution_kernels.max_pool2d(x, 3, 2, (0, 0, 0, 0))
