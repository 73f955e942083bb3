"""Which file and which entry of a cache hold what; a function of the index alone."""

from collections.abc import Iterator
from pathlib import Path

from latte_ms.cache.index import Index
from latte_ms.cache.shards import check_shard
from latte_ms.weights.tensors import Spec

MEAN, STD = "mean", "std"


class Layout:
    """The files of a cache in `folder`.

    Clip c of video v is the entry `v.c`; its mirrored copy, where `flip` is set, is `v.cm`.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index, self.cache_id = folder, index, index.cache_id
        config = index.cache_config
        self.clips, self.dtype, self._videos_per_file = (
            config.clips_per_video,
            config.dtype,
            config.videos_per_file,
        )
        self.mirrored = bool(index.settings["data"]["flip"])

    @property
    def num_shards(self) -> int:
        """Number of files of latents."""
        return -(-len(self.index.names) // self._videos_per_file)

    def path(self, shard: int) -> Path:
        """A file of latents."""
        return self.folder / f"latents-{shard:06d}.safetensors"

    def shard_of(self, video: int) -> int:
        """The file of latents that holds a video."""
        return video // self._videos_per_file

    def videos(self, shard: int) -> range:
        """The videos of a file of latents."""
        first = shard * self._videos_per_file
        return range(first, min(first + self._videos_per_file, len(self.index.names)))

    def entry(self, video: int, clip: int, mirrored: bool = False) -> str:
        """The name of a clip's entry."""
        return f"{video}.{clip}{'m' if mirrored else ''}"

    def entries(self, video: int) -> Iterator[str]:
        """The names of all entries of a video."""
        for clip in range(self.clips):
            yield self.entry(video, clip)
            if self.mirrored:
                yield self.entry(video, clip, True)

    def check(self, shard: int, check_bytes: bool) -> dict[str, str]:
        """The broken videos of a file of latents, by name; `check_bytes`: check all bytes.

        Raises ValueError, with the path, unless the file is whole and belongs to this cache.
        """
        owners = {name: str(v) for v in self.videos(shard) for name in self.entries(v)}
        spec = Spec(self.index.latent_shape, self.dtype)
        path, parts = self.path(shard), (MEAN, STD)
        rule = f"{spec.shape} of {spec.dtype}"
        broken = check_shard(path, self.cache_id, owners, parts, spec.__eq__, rule, check_bytes)
        return {self.index.names[int(video)]: reason for video, reason in broken.items()}
