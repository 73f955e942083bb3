"""How a Fréchet video distance is measured; figures can be compared where all of it agrees.

All take 16 frames of 256 x 256, and covariances over N. `latte` is the protocol of Latte's own code
and of its paper's tables; `stylegan_v` (arXiv 2112.14683) takes successive frames of the real
videos, too; `cd_fvd` (arXiv 2404.12391) takes the whole real set. docs/metrics.md compares them.
"""

from dataclasses import dataclass

from latte_ms.metrics.clips import ClipRule


@dataclass(frozen=True)
class ClipProtocol:
    """The clips of both sets, and what is done with their features."""

    real: ClipRule
    generated: ClipRule
    unbiased: bool = False  # covariances over N - 1


_DRAWN = ClipRule(start="random", max_videos=2048)
_FIRST = ClipRule(start="first", max_videos=2048)
PROTOCOLS: dict[str, ClipProtocol] = {
    "latte": ClipProtocol(
        ClipRule(start="random", max_videos=2048, interval=3, min_frames=48), _FIRST
    ),
    "stylegan_v": ClipProtocol(_DRAWN, _FIRST),
    "cd_fvd": ClipProtocol(
        ClipRule(start="random", resize="short_side_bilinear"),
        ClipRule(start="random", resize="short_side_bilinear", max_videos=2048),
    ),
}
