"""Latte, the latent diffusion transformer for video generation, on MindSpore."""

from latte_ms import terminal as terminal  # first: it sets what MindSpore reads at its import
from latte_ms.generation.pipelines.latte import LattePipeline as LattePipeline
from latte_ms.generation.pipelines.video_to_video import (
    LatteVideoToVideoPipeline as LatteVideoToVideoPipeline,
)
from latte_ms.transformer.configuration import LatteConfig as LatteConfig
from latte_ms.transformer.configuration import LatteT2VConfig as LatteT2VConfig
from latte_ms.transformer.latte import Latte as Latte
from latte_ms.transformer.latte_t2v import LatteT2V as LatteT2V

__version__ = "0.1.0"
__all__ = [
    "Latte",
    "LatteConfig",
    "LattePipeline",
    "LatteT2V",
    "LatteT2VConfig",
    "LatteVideoToVideoPipeline",
    "__version__",
]
