"""Latte, the latent diffusion transformer for video generation, on MindSpore."""

from latte_ms.transformer.latte import Latte as Latte
from latte_ms.transformer.presets import LatteConfig as LatteConfig

__version__ = "0.1.0"
__all__ = ["Latte", "LatteConfig", "__version__"]
