"""Embeddings of patches, timesteps and labels."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.layers import kernels, positions
from latte_ms.layers.linear import Linear


class PatchEmbedding(nn.Cell):
    """Each p x p patch of a frame to one token: (B, F, C, h, w) -> (B, F, N, D).

    A convolution whose stride is its kernel, written as a rearrangement and a Linear: exact, and
    needs no convolution kernel, which some backends lack.
    """

    def __init__(
        self,
        patch_size: int,
        channels: int,
        hidden_size: int,
        dtype: ms.Type = ms.float32,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = Linear(channels * patch_size**2, hidden_size, bias, dtype)

    def construct(self, x: Tensor) -> Tensor:
        b, f, c, h, w = x.shape
        p = self.patch_size
        x = x.reshape(b * f, c, h // p, p, w // p, p)
        x = x.transpose(0, 2, 4, 1, 3, 5)  # (B*F, h / p, w / p, C, p, p)
        return self.proj(x.reshape(b, f, (h // p) * (w // p), c * p * p))


class TubeletEmbedding(nn.Cell):
    """Each s x p x p tubelet of s frames to one token: (B, F, C, h, w) -> (B, F / s, N, D).

    A 3-D convolution whose stride is its kernel, as `PatchEmbedding` is a 2-D one; the values of a
    tubelet are in the order (C, s, p, p).
    """

    def __init__(
        self,
        frames: int,
        patch_size: int,
        channels: int,
        hidden_size: int,
        dtype: ms.Type = ms.float32,
    ) -> None:
        super().__init__()
        self.frames, self.patch_size = frames, patch_size
        self.tubelets = Linear(channels * frames * patch_size**2, hidden_size, dtype=dtype)

    def construct(self, x: Tensor) -> Tensor:
        b, f, c, h, w = x.shape
        s, p = self.frames, self.patch_size
        rows, columns = h // p, w // p
        x = x.reshape(b * f // s, s, c, rows, p, columns * p).transpose(0, 3, 2, 1, 4, 5)
        x = x.reshape(b * f // s * rows, c * s * p, columns, p).transpose(0, 2, 1, 3)
        return self.tubelets(x.reshape(b, f // s, rows * columns, c * s * p * p))


class TimestepEmbedding(nn.Cell):
    """[cos | sin] of the timestep at 128 frequencies, Linear, SiLU, Linear: (B,) -> (B, D)."""

    def __init__(
        self, hidden_size: int, frequencies: int = 128, dtype: ms.Type = ms.float32
    ) -> None:
        super().__init__()
        self.frequencies = Tensor(positions.timestep_frequencies(frequencies).reshape(1, -1))
        self.linear_1 = Linear(2 * frequencies, hidden_size, dtype=dtype)
        self.linear_2 = Linear(hidden_size, hidden_size, dtype=dtype)

    def construct(self, t: Tensor) -> Tensor:
        angles = t.astype(ms.float32).reshape(-1, 1) * self.frequencies  # (B, 128)
        features = kernels.concat((ops.cos(angles), ops.sin(angles)), -1)
        return self.linear_2(kernels.silu(self.linear_1(features))).astype(ms.float32)


class LabelEmbedding(nn.Cell):
    """One row per class, and the null label's where labels can be dropped: (...) -> (..., D)."""

    def __init__(self, num_classes: int, hidden_size: int, null_class: bool) -> None:
        super().__init__()
        rows = num_classes + (1 if null_class else 0)
        self.weight = Parameter(ops.zeros((rows, hidden_size), ms.float32))

    def construct(self, labels: Tensor) -> Tensor:
        return kernels.embedding(labels, self.weight).astype(ms.float32)
