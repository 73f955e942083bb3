"""The diffusion process, its losses, samplers and guidance, around any denoising cell.

A denoiser is a cell `denoise(x, t, *conditions)`: x (B, F, C, H, W) float32, t (B,) int32 timesteps
of the training schedule, conditions as the network takes them; it returns (B, F, C or 2C, H, W)
float32, the second half of the channels being the variance values where it is learned.
"""

from latte_ms.diffusion.guidance import ClassifierFreeGuidance
from latte_ms.diffusion.loss import LOSSES, DiffusionLoss
from latte_ms.diffusion.process import DiffusionProcess
from latte_ms.diffusion.samplers import SAMPLERS, DDIMInversion, SamplerStep, ddim, ddpm
from latte_ms.diffusion.schedule import Schedule

__all__ = [
    "LOSSES",
    "SAMPLERS",
    "ClassifierFreeGuidance",
    "DDIMInversion",
    "DiffusionLoss",
    "DiffusionProcess",
    "SamplerStep",
    "Schedule",
    "ddim",
    "ddpm",
]
