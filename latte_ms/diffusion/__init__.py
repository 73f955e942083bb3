"""The diffusion process, its losses, samplers and guidance, around any denoiser.

A denoiser is a cell `denoiser(x, t, **conditions)`: x (B, F, C, h, w) float32; t timesteps of the
training schedule, (B,) int32 from samplers, or (1,) or (B,) float32 from schedulers, which only the
denoiser around `LatteT2V` takes; conditions as tensors under the names of the network's arguments.
It returns (B, F, C or 2C, h, w) float32, the second half of the channels being the variance values
where the variance is learned. Shapes: B videos, F frames, C channels and h w size of the latents.
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
