"""C3D in PyTorch, written for comparison: on BGR, as the Caffe model was published."""

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = {
    **{"conv1a": (3, 1), "conv2a": (1, 2), "conv3a": (2, 4), "conv3b": (4, 4)},
    **{"conv4a": (4, 8), "conv4b": (8, 8), "conv5a": (8, 8), "conv5b": (8, 8)},
}
POOLED = {"conv1a": (1, 2, 2), "conv2a": 2, "conv3b": 2, "conv4b": 2, "conv5b": 2}


class C3D(nn.Module):
    """With the names of the Caffe model."""

    def __init__(self, channels: int = 64, hidden_size: int = 4096) -> None:
        super().__init__()
        for name, (inner, outer) in WIDTHS.items():
            inner = 3 if name == "conv1a" else inner * channels
            setattr(self, name, nn.Conv3d(inner, outer * channels, 3, padding=1))
        self.fc6 = nn.Linear(8 * channels * 16, hidden_size)
        self.fc7 = nn.Linear(hidden_size, hidden_size)
        self.fc8 = nn.Linear(hidden_size, 101)

    def forward(self, frames: Tensor, mean: Tensor) -> Tensor:
        """frames (T, H, W, 3) RGB in 0..255, mean (3, 16, 112, 112) BGR -> logits (1, 101)."""
        pixels = frames.permute(0, 3, 1, 2).float()
        resized = functional.interpolate(pixels, (112, 112), mode="bilinear", align_corners=True)
        x = (resized.flip(1).transpose(0, 1) - mean)[None]
        for name in WIDTHS:
            x = functional.relu(getattr(self, name)(x))
            if name in POOLED:
                x = functional.max_pool3d(x, POOLED[name], ceil_mode=True)
        x = functional.relu(self.fc6(x.flatten(1)))
        return self.fc8(functional.relu(self.fc7(x)))


def random_c3d(channels: int = 64, hidden_size: int = 4096) -> C3D:
    """With weights under which activations keep their size, after the first layer."""
    torch.manual_seed(0)
    network = C3D(channels, hidden_size).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, 0.0, 0.1)
    return network
