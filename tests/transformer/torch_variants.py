"""Latte with the paper's design choices in plain PyTorch, from its text, for comparison.

Weights come by this package's names (`network.parameters_dict()`), activations are (B, F, N, D).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from latte_ms.transformer.configuration import LatteConfig

Weights = Mapping[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(x: Tensor, w: Weights | None = None, name: str = "") -> Tensor:
    affine = (None, None) if w is None else (w[f"{name}.weight"], w[f"{name}.bias"])
    return functional.layer_norm(x, x.shape[-1:], *affine, eps=1e-6)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """x (..., L, K) by complex numbers: channel k + i channel (k + K / 2), times e^(i angle)."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half].double(), x[..., half:].double())
    z = z * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], -1).float()


def attention(x: Tensor, w: Weights, name: str, cfg: LatteConfig, over: str) -> Tensor:
    """Of all heads, before the output projection, over tokens (spatial) or frames (temporal)."""
    q, k, v = (linear(w, f"{name}.{part}", x) for part in ("query", "key", "value"))
    return heads_of(q, k, v, cfg, over)


def heads_of(q: Tensor, k: Tensor, v: Tensor, cfg: LatteConfig, over: str) -> Tensor:
    """q, k, v (B, F, N, any number of heads times the size of one)."""
    size = cfg.hidden_size // cfg.num_heads
    parts = []
    for part in (q, k, v):
        b, f, n, width = part.shape
        part = part.reshape(b, f, n, width // size, size)
        order = (0, 1, 3, 2, 4) if over == "spatial" else (0, 2, 3, 1, 4)
        parts.append(part.permute(*order))  # (B, F, H, N, K) or (B, N, H, F, K)
    query, key, value = parts
    angles = angles_of(cfg, over, key.shape[-2], size)
    if angles is not None:
        query, key = turned(query, angles), turned(key, angles)
    y = functional.scaled_dot_product_attention(query, key, value)
    back = (0, 1, 3, 2, 4) if over == "spatial" else (0, 3, 1, 2, 4)
    return y.permute(*back).reshape(q.shape)


def angles_of(cfg: LatteConfig, over: str, length: int, size: int) -> Tensor | None:
    if over == "temporal":
        if cfg.positions == "absolute":
            return None
        frequency = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        return torch.arange(length, dtype=torch.float64)[:, None] * frequency
    if cfg.positions != "rotary":
        return None
    side = cfg.input_size // cfg.patch_size
    frequency = 10000.0 ** (-torch.arange(0, size // 2, 2, dtype=torch.float64) / (size // 2))
    place = torch.arange(side * side)
    column, row = (place % side)[:, None] * frequency, (place // side)[:, None] * frequency
    angles = torch.cat([column, row], 1)
    return torch.cat([angles, torch.zeros(length - len(angles), size // 2, dtype=torch.float64)])


def attended(x: Tensor, w: Weights, prefix: str, cfg: LatteConfig, kind: str) -> Tensor:
    """One attention with its output projection, of the frames alone where it is temporal."""
    name, frames = f"{prefix}.attention", cfg.token_frames
    if kind == "temporal":
        y = attention(x[:, :frames], w, name, cfg, "temporal")
        return torch.cat([linear(w, f"{name}.output", y), torch.zeros_like(x[:, frames:])], 1)
    if kind == "spatial":
        return linear(w, f"{name}.output", attention(x, w, name, cfg, "spatial"))
    q, k, v = (linear(w, f"{name}.{part}", x) for part in ("query", "key", "value"))
    half = cfg.hidden_size // 2
    spatial = heads_of(q[..., :half], k[..., :half], v[..., :half], cfg, "spatial")
    rest = [part[:, :frames, :, half:] for part in (q, k, v)]
    temporal = torch.zeros_like(spatial)
    temporal[:, :frames] = heads_of(*rest, cfg, "temporal")
    # Two components, each with its rows of the projection, are added.
    weight, bias = w[f"{name}.output.weight"], w[f"{name}.output.bias"]
    return spatial @ weight[:, :half].T + temporal @ weight[:, half:].T + bias


def mlp(x: Tensor, w: Weights, prefix: str) -> Tensor:
    hidden = functional.gelu(linear(w, f"{prefix}.mlp.fc1", x), approximate="tanh")
    return linear(w, f"{prefix}.mlp.fc2", hidden)


def block(x: Tensor, condition: Tensor, w: Weights, i: int, cfg: LatteConfig, kind: str) -> Tensor:
    prefix = f"blocks.{i}"
    temporal = {
        k.replace("temporal_attention.", "attention."): v
        for k, v in w.items()
        if f"{prefix}.temporal_attention." in k
    }
    first = "spatial" if kind == "sequential" else kind
    if cfg.injection == "tokens":
        x = x + attended(norm(x, w, f"{prefix}.attention_norm"), w, prefix, cfg, first)
        if kind == "sequential":
            y = norm(x, w, f"{prefix}.temporal_attention_norm")
            x = x + attended(y, temporal, prefix, cfg, "temporal")
        return x + mlp(norm(x, w, f"{prefix}.mlp_norm"), w, prefix)
    parts = linear(w, f"{prefix}.modulation.linear", functional.silu(condition)).chunk(6, -1)
    shift, scale, gate, shift_m, scale_m, gate_m = parts
    x = x + gate * attended(norm(x) * (1 + scale) + shift, w, prefix, cfg, first)
    if kind == "sequential":
        y = norm(x) * (1 + scale) + shift
        x = x + gate * attended(y, temporal, prefix, cfg, "temporal")
    return x + gate_m * mlp(norm(x) * (1 + scale_m) + shift_m, w, prefix)


def forward(
    arrays: Mapping[str, np.ndarray],
    cfg: LatteConfig,
    x: np.ndarray,
    t: np.ndarray,
    y: np.ndarray | None = None,
    y_image: np.ndarray | None = None,
) -> np.ndarray:
    """What `Latte` returns."""
    w = {name: torch.from_numpy(array) for name, array in arrays.items()}
    z = patches(torch.from_numpy(x), w, cfg)
    t_emb = timesteps(w, t)
    label = labels(w, cfg, x.shape, y, y_image)[:, : z.shape[1]]
    condition = (t_emb[:, None] + label)[:, :, None]
    if "pos_embed" in w:
        z = z + w["pos_embed"]
    count = z.shape[2]
    if cfg.injection == "tokens":
        extra = [t_emb[:, None, None].expand(-1, z.shape[1], 1, -1)]
        extra += [label[:, :, None]] if y is not None else []
        z = torch.cat([z, *extra], 2)
    z = blocks(z, condition, w, cfg)
    if cfg.injection == "tokens":
        z = norm(z[:, :, :count], w, "final_layer.norm")
    else:
        parts = linear(w, "final_layer.modulation.linear", functional.silu(condition))
        shift, scale = parts.chunk(2, -1)
        z = norm(z) * (1 + scale) + shift
    return pixels(linear(w, "final_layer.linear", z), w, cfg).numpy()


def timesteps(w: Weights, t: np.ndarray) -> Tensor:
    """(B, D)"""
    frequency = torch.exp(-np.log(10000.0) * torch.arange(128) / 128)
    angles = torch.from_numpy(t).float()[:, None] * frequency
    hidden = linear(w, "t_embedder.linear_1", torch.cat([angles.cos(), angles.sin()], 1))
    return linear(w, "t_embedder.linear_2", functional.silu(hidden))


def labels(
    w: Weights,
    cfg: LatteConfig,
    shape: tuple[int, ...],
    y: np.ndarray | None,
    y_image: np.ndarray | None,
) -> Tensor:
    """Of each frame and image, (B, F + I, D)."""
    batch, total = shape[:2]
    if y is None:
        return torch.zeros(batch, total, cfg.hidden_size)
    table = w["y_embedder.weight"]
    label = table[torch.from_numpy(y).long()][:, None].expand(batch, total, -1)
    if y_image is not None and total > cfg.num_frames:
        rows = table[torch.from_numpy(y_image).long()]
        label = torch.cat([label[:, : cfg.num_frames], rows], 1)
    return label


def blocks(z: Tensor, condition: Tensor, w: Weights, cfg: LatteConfig) -> Tensor:
    frames, placed = cfg.token_frames, "temp_embed" not in w
    for i, kind in enumerate(cfg.plan):
        if kind != "spatial" and not placed:
            z = torch.cat([z[:, :frames] + w["temp_embed"][0][None, :, None], z[:, frames:]], 1)
            placed = True
        if kind == "temporal":
            of_frames = condition[:, :1].expand(-1, frames, -1, -1)
            video = block(z[:, :frames], of_frames, w, i, cfg, kind)
            z = torch.cat([video, z[:, frames:]], 1)
        else:
            z = block(z, condition, w, i, cfg, kind)
    return z


def patches(x: Tensor, w: Weights, cfg: LatteConfig) -> Tensor:
    """By a convolution whose stride is its kernel: (B, F, C, h, w) -> (B, F, N, D)."""
    p, s = cfg.patch_size, cfg.temporal_patch_size
    name = "x_embedder.tubelets" if s > 1 else "x_embedder.proj"
    kernel = w[f"{name}.weight"].reshape(cfg.hidden_size, cfg.in_channels, s, p, p)
    y = functional.conv3d(x.transpose(1, 2), kernel, w[f"{name}.bias"], stride=(s, p, p))
    return y.permute(0, 2, 3, 4, 1).flatten(2, 3)


def pixels(z: Tensor, w: Weights, cfg: LatteConfig) -> Tensor:
    """(B, F, N, p * p * C) -> (B, F, C, h, w), over time by a transposed convolution."""
    p, s, c = cfg.patch_size, cfg.temporal_patch_size, cfg.out_channels
    side = cfg.input_size // p
    b, f = z.shape[:2]
    z = z.reshape(b, f, side, side, p, p, c).permute(0, 6, 1, 2, 4, 3, 5)
    z = z.reshape(b, c, f, side * p, side * p)
    if s > 1:
        weight = w["temporal_upsampling.weight"].reshape(s, c, c)  # (tap, out, in)
        kernel = weight.permute(2, 1, 0)[..., None, None]  # (in, out, s, 1, 1)
        bias = w["temporal_upsampling.bias"].reshape(s, c)
        z = functional.conv_transpose3d(z, kernel, stride=(s, 1, 1))
        z = z + bias.repeat(f, 1).T[None, :, :, None, None]
    return z.transpose(1, 2)
