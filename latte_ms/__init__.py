"""Latte, the latent diffusion transformer for video generation, on MindSpore.

The classes below are imported when they are first used: `import latte_ms` itself takes no time.
"""

from typing import TYPE_CHECKING, Any

from latte_ms import environment as environment  # read when MindSpore is imported
from latte_ms import terminal as terminal  # opens standard streams that are closed

if TYPE_CHECKING:
    from latte_ms.generation.pipelines.latte import LattePipeline
    from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline
    from latte_ms.transformer.configuration import LatteConfig
    from latte_ms.transformer.latte import Latte
    from latte_ms.transformer.latte_t2v import LatteT2V
    from latte_ms.transformer.t2v_configuration import LatteT2VConfig

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from latte_ms.generation.pipelines.latte import LattePipeline
    from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline
    from latte_ms.transformer.configuration import LatteConfig
    from latte_ms.transformer.latte import Latte
    from latte_ms.transformer.latte_t2v import LatteT2V
    from latte_ms.transformer.t2v_configuration import LatteT2VConfig

    networks = (Latte, LatteConfig, LatteT2V, LatteT2VConfig)
    classes = (*networks, LattePipeline, LatteVideoToVideoPipeline)
    globals().update({kind.__name__: kind for kind in classes})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
