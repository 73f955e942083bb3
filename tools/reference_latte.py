"""Latte in PyTorch, for benchmarks and tests only: the same network, written the usual way.

Parameter names and shapes are the reference's, so its checkpoints load with `strict=True`.
Unconditional and class-conditional; see `latte_ms.transformer.latte` for the explanation.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers.positions import sincos_1d, sincos_2d
from latte_ms.transformer.configuration import LatteConfig


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = (
            nn.Linear(hidden_size, 3 * hidden_size),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden_size, mlp_size), nn.Linear(mlp_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, config.num_heads)
        self.mlp = Mlp(hidden_size, int(hidden_size * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # (B, N, D), (B, D)
        parts = self.adaLN_modulation(condition).chunk(6, dim=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        x = x + gate_a[:, None] * self.attn(modulate(self.norm(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self.norm(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, config.patch_size**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        return self.linear(modulate(self.norm(x), shift, scale))


class PatchEmbedding(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        p = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, p, stride=p)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedding(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = t[:, None].float() * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class LabelEmbedding(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_labels, config.hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Latte(nn.Module):
    """`latte_ms.Latte` with conditioning none or class."""

    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.config = config
        hidden_size, side = config.hidden_size, config.input_size // config.patch_size
        self.x_embedder = PatchEmbedding(config)
        self.t_embedder = TimestepEmbedding(hidden_size)
        if config.conditioning == "class":
            self.y_embedder = LabelEmbedding(config)
        self.pos_embed = fixed(sincos_2d(hidden_size, np.arange(side), np.arange(side)))
        self.temp_embed = fixed(sincos_1d(hidden_size, np.arange(config.num_frames)))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.final_layer = FinalLayer(config)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        b, f, c, h, w = x.shape
        tokens = self.x_embedder(x.reshape(b * f, c, h, w)) + self.pos_embed
        n, d = tokens.shape[1:]
        condition = self.t_embedder(t)
        if y is not None:
            condition = condition + self.y_embedder(y)
        for i, block in enumerate(self.blocks):
            if i % 2 == 0:
                tokens = block(tokens, condition.repeat_interleave(f, dim=0))
                continue
            tokens = tokens.reshape(b, f, n, d).transpose(1, 2).reshape(b * n, f, d)
            if i == 1:
                tokens = tokens + self.temp_embed
            tokens = block(tokens, condition.repeat_interleave(n, dim=0))
            tokens = tokens.reshape(b, n, f, d).transpose(1, 2).reshape(b * f, n, d)
        values = self.final_layer(tokens, condition.repeat_interleave(f, dim=0))
        p, side = self.config.patch_size, h // self.config.patch_size
        values = values.reshape(b * f, side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return values.reshape(b, f, -1, h, w)


def fixed(table: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(table[None]).float(), requires_grad=False)


def diffusion_loss(network: Latte, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error and variational bound (its KL part) on the linear schedule."""
    schedule = Schedule.create()

    def at(table: np.ndarray) -> Tensor:
        return torch.from_numpy(table)[t.long()].float().reshape(-1, 1, 1, 1, 1)

    alphas_cumprod = schedule.alphas_cumprod
    x_t = at(np.sqrt(alphas_cumprod)) * x0 + at(np.sqrt(1 - alphas_cumprod)) * noise
    prediction, values = network(x_t, t).chunk(2, dim=2)
    clean = (
        at(np.sqrt(1 / alphas_cumprod)) * x_t
        - at(np.sqrt(1 / alphas_cumprod - 1)) * prediction.detach()
    )
    low, high = at(schedule.posterior_log_variance_clipped), at(np.log(schedule.betas))
    log_variance = low + 0.5 * (values + 1) * (high - low)
    weight = at(schedule.posterior_mean_coef1)
    distance = (weight * (x0 - clean)) ** 2 * torch.exp(-log_variance)
    kl = 0.5 * (log_variance - low - 1 + torch.exp(low - log_variance) + distance)
    return ((noise - prediction) ** 2).mean() + kl.mean() / math.log(2)
