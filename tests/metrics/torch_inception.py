"""The Inception v3 of the Fréchet inception distance in PyTorch, written for comparison."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU: BasicConv2d of torchvision."""

    def __init__(self, channels: int, out: int, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, bias=False, **options)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "mean": lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "largest": lambda x: functional.max_pool2d(x, 3, 1, 1),
    "shrunk": lambda x: functional.max_pool2d(x, 3, 2),
}
ROW = {"kernel_size": (1, 7), "padding": (0, 3)}
COLUMN = {"kernel_size": (7, 1), "padding": (3, 0)}
WIDE = {"kernel_size": (1, 3), "padding": (0, 1)}
TALL = {"kernel_size": (3, 1), "padding": (1, 0)}
ONE = {"kernel_size": 1}
THREE = {"kernel_size": 3, "padding": 1}
FIVE = {"kernel_size": 5, "padding": 2}
SHRINK = {"kernel_size": 3, "stride": 2}

Layer = tuple[int, dict[str, Any]]


class Block(nn.Module):
    """Branches, each a chain of units behind a pooling; the last layer may be two, side by side."""

    def __init__(self, channels: int, *branches: tuple[str, str, list[Layer], bool]) -> None:
        super().__init__()
        self.branches: list[tuple[str, list[str], list[str]]] = []
        for pooling, name, layers, twins in branches:
            width, names = channels, []
            for number, (out, options) in enumerate(layers, 1):
                unit = name if len(layers) == 1 and not twins else f"{name}_{number}"
                setattr(self, unit, Unit(width, out, **options))
                names.append(unit)
                width = out
            last = []
            if twins:
                last = [f"{name}_{len(layers) + 1}{letter}" for letter in "ab"]
                setattr(self, last[0], Unit(width, 384, **WIDE))
                setattr(self, last[1], Unit(width, 384, **TALL))
            self.branches.append((pooling, names, last))

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for pooling, names, last in self.branches:
            y = POOLINGS[pooling](x)
            for name in names:
                y = getattr(self, name)(y)
            parts += [getattr(self, name)(y) for name in last] if last else [y]
        return torch.cat(parts, 1)


def block_a(n: int, pooled: int) -> Block:
    return Block(
        n,
        ("", "branch1x1", [(64, ONE)], False),
        ("", "branch5x5", [(48, ONE), (64, FIVE)], False),
        ("", "branch3x3dbl", [(64, ONE), (96, THREE), (96, THREE)], False),
        ("mean", "branch_pool", [(pooled, ONE)], False),
    )


def block_b(n: int) -> Block:
    return Block(
        n,
        ("", "branch3x3", [(384, SHRINK)], False),
        ("", "branch3x3dbl", [(64, ONE), (96, THREE), (96, SHRINK)], False),
        ("shrunk", "", [], False),
    )


def block_c(n: int, c: int) -> Block:
    double = [(c, ONE), (c, COLUMN), (c, ROW), (c, COLUMN), (192, ROW)]
    return Block(
        n,
        ("", "branch1x1", [(192, ONE)], False),
        ("", "branch7x7", [(c, ONE), (c, ROW), (192, COLUMN)], False),
        ("", "branch7x7dbl", double, False),
        ("mean", "branch_pool", [(192, ONE)], False),
    )


def block_d(n: int) -> Block:
    seven = [(192, ONE), (192, ROW), (192, COLUMN), (192, SHRINK)]
    return Block(
        n,
        ("", "branch3x3", [(192, ONE), (320, SHRINK)], False),
        ("", "branch7x7x3", seven, False),
        ("shrunk", "", [], False),
    )


def block_e(n: int, pooling: str) -> Block:
    return Block(
        n,
        ("", "branch1x1", [(320, ONE)], False),
        ("", "branch3x3", [(384, ONE)], True),
        ("", "branch3x3dbl", [(448, ONE), (384, THREE)], True),
        (pooling, "branch_pool", [(192, ONE)], False),
    )


class Inception(nn.Module):
    """With the names of the published state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, **SHRINK)
        self.Conv2d_2a_3x3 = Unit(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = Unit(32, 64, **THREE)
        self.Conv2d_3b_1x1 = Unit(64, 80, **ONE)
        self.Conv2d_4a_3x3 = Unit(80, 192, kernel_size=3)
        self.Mixed_5b, self.Mixed_5c = block_a(192, 32), block_a(256, 64)
        self.Mixed_5d, self.Mixed_6a = block_a(288, 64), block_b(288)
        self.Mixed_6b, self.Mixed_6c = block_c(768, 128), block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = block_c(768, 160), block_c(768, 192)
        self.Mixed_7a, self.Mixed_7b = block_d(768), block_e(1280, "mean")
        self.Mixed_7c = block_e(2048, "largest")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 299, 299) in [-1, 1] -> features, logits without bias."""
        for name, module in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = functional.max_pool2d(x, 3, 2)
            if name != "fc":
                x = module(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


def random_inception() -> Inception:
    """With weights and statistics under which activations keep their size."""
    torch.manual_seed(0)
    network = Inception().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0.0, 0.1)
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network
