"""The diffusion process, its losses, samplers and guidance, around any denoiser.

A denoiser is a cell `denoiser(x, t, **conditions)`: x (B, F, C, H, W) float32, t (B,) timesteps of
the training schedule, conditions as tensors under the names of the network's arguments; it returns
(B, F, C or 2C, H, W) float32, the second half of the channels being the variance values where the
variance is learned.
"""

from latte_ms.diffusion.guidance import Guidance, GuidanceOptions
from latte_ms.diffusion.loss import LOSSES, DiffusionLoss
from latte_ms.diffusion.process import DiffusionProcess
from latte_ms.diffusion.samplers import DDIM, DDPM, SAMPLERS, DDIMInversion, Step, denoise
from latte_ms.diffusion.schedule import Schedule

__all__ = [
    "DDIM",
    "DDPM",
    "LOSSES",
    "SAMPLERS",
    "DDIMInversion",
    "DiffusionLoss",
    "DiffusionProcess",
    "Guidance",
    "GuidanceOptions",
    "Schedule",
    "Step",
    "denoise",
]
