"""The sections `latent_cache` and `caption_cache` of a recipe."""

import dataclasses
from dataclasses import dataclass

from latte_ms.options import Rule, check_each, integers, one_of

DTYPES = ("float16", "float32")
_CAPTION_RULES: dict[str, Rule] = {
    "dtype": one_of(*DTYPES),
    "captions_per_file": integers(1, 65_536),
}
_RULES: dict[str, Rule] = {
    "dtype": one_of(*DTYPES),
    "clips_per_video": integers(1, 1024),
    "seed": integers(0, 2**62),
    "videos_per_file": integers(1, 4096),
}


@dataclass(frozen=True)
class LatentCacheConfig:
    """Where a cache is, and what it holds; training must ask for what was encoded.

    Raises ValueError for a bad value, and for one that would change nothing.
    """

    path: str = ""  # folder that `latte-encode` fills; empty: videos are encoded at each use
    dtype: str = "float16"  # of means and standard deviations; or float32
    clips_per_video: int = 1  # 1: the middle window; more: windows drawn from `seed`
    seed: int = 0  # of the windows
    videos_per_file: int = 32  # a killed encoder repeats at most the files it was writing

    def __post_init__(self) -> None:
        check_each(self, _RULES, "latent_cache.")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if not self.path and dataclasses.asdict(self) != defaults:
            raise ValueError("`latent_cache.path` must name a folder for its other keys, got ''.")
        if self.seed and self.clips_per_video == 1:
            raise ValueError(
                f"`latent_cache.seed` (={self.seed}) must be 0 where no windows are drawn "
                "(`latent_cache.clips_per_video` 1)."
            )

    @property
    def settings(self) -> dict[str, object]:
        """What the folder holds, by the names of the keys."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "path"}


@dataclass(frozen=True)
class CaptionCacheConfig:
    """Where the embeddings of the captions are, and what the folder holds.

    Raises ValueError for a bad value, and for one that would change nothing.
    """

    path: str = ""  # folder that `latte-encode` fills; empty: captions are encoded while training
    dtype: str = "float16"  # of the embeddings; or float32
    captions_per_file: int = 256  # a killed encoder repeats at most the files it was writing

    def __post_init__(self) -> None:
        check_each(self, _CAPTION_RULES, "caption_cache.")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if not self.path and dataclasses.asdict(self) != defaults:
            raise ValueError("`caption_cache.path` must name a folder for its other keys, got ''.")
