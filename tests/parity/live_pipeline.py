"""A tiny random pipeline saved by diffusers, for tests that run both implementations."""

from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 4

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 24,
    "attention_bias": True,
    "sample_size": 4,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 32,
    "video_length": FRAMES,
}


def noise(batch: int, side: tuple[int, int] = (4, 4), frames: int = FRAMES) -> np.ndarray:
    """Latents (batch, 4, frames, *side) float32, in diffusers' layout."""
    return np.random.default_rng(batch).standard_normal((batch, 4, frames, *side), np.float32)


def save_live_pipeline(folder: Path, reference: Path) -> Path:
    """Write a pipeline with random weights, and a temporal decoder, to `folder`."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(5)
    transformer = diffusers.LatteTransformer3DModel(**TRANSFORMER)
    small = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4}
    config = transformers.T5Config.from_pretrained(reference / "t2v" / "text_encoder")
    pipeline = diffusers.LattePipeline(
        tokenizer=transformers.T5Tokenizer.from_pretrained(reference / "t2v" / "tokenizer"),
        text_encoder=transformers.T5EncoderModel(config).eval(),
        vae=diffusers.AutoencoderKL(**small, **blocks, up_block_types=("UpDecoderBlock2D",) * 4),
        transformer=transformer.eval(),
        scheduler=diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False),
    )
    pipeline.save_pretrained(folder)
    temporal = diffusers.AutoencoderKLTemporalDecoder(**small, **blocks)
    with torch.no_grad():
        for name, parameter in temporal.named_parameters():
            if "mix_factor" in name:
                parameter.add_(torch.randn_like(parameter))
    temporal.save_pretrained(folder / "vae_temporal_decoder")
    return folder
