"""Make a tiny autoencoder and what diffusers' tiled encoding and decoding make of wide pictures.

python tests/reference/tiling/make_tiling.py   (needs torch and diffusers)
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

FOLDER = Path(__file__).parent


def main() -> None:
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
        scaling_factor=0.5,
    ).eval()
    network.enable_tiling()
    pixels = 2 * torch.rand(2, 3, 12, 24) - 1
    latents = torch.randn(2, 4, 6, 12)
    with torch.no_grad():
        posterior = network.encode(pixels).latent_dist
        decoded = network.decode(latents).sample
    arrays = {
        "pixels": pixels,
        "mean": posterior.mean,
        "std": posterior.std,
        "latents": latents,
        "decoded": decoded,
    }
    network.save_pretrained(FOLDER)
    values = {name: array.numpy().astype(np.float32) for name, array in arrays.items()}
    np.savez_compressed(FOLDER / "io.npz", **values)


if __name__ == "__main__":
    main()
