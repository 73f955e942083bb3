"""Which file and which entry of a cache hold what; a function of the index alone."""

from collections.abc import Iterator
from pathlib import Path

from latte_ms.cache.index import Index
from latte_ms.cache.shards import Sizes, check_shard, exactly

MEAN, STD, TEXT = "mean", "std", "text"
UNCONDITIONAL = "unconditional"  # the entry of the empty prompt, in the first file of texts
CAPTIONS_PER_FILE = 256


class Layout:
    """The files of a cache in `folder`.

    Clip c of video v is the entry `v.c`; its mirrored copy, where `flip` is set, is `v.cm`.
    Caption number t is the entry `t`.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index, self.identity = folder, index, index.identity
        content = index.content
        self.clips, self.dtype, self._videos_per_file = (
            content.clips_per_video,
            content.dtype,
            content.videos_per_file,
        )
        self.mirrored = bool(index.settings["data"]["flip"])

    @property
    def num_shards(self) -> int:
        """Number of files of latents."""
        return -(-len(self.index.names) // self._videos_per_file)

    @property
    def num_text_shards(self) -> int:
        """Number of files of text features."""
        captions = self.index.captions
        return 0 if captions is None else -(-len(captions.texts) // CAPTIONS_PER_FILE)

    def path(self, shard: int) -> Path:
        """A file of latents."""
        return self.folder / f"latents-{shard:06d}.safetensors"

    def text_path(self, shard: int) -> Path:
        """A file of text features."""
        return self.folder / f"texts-{shard:06d}.safetensors"

    def shard_of(self, video: int) -> int:
        """The file of latents that holds a video."""
        return video // self._videos_per_file

    def videos(self, shard: int) -> range:
        """The videos of a file of latents."""
        first = shard * self._videos_per_file
        return range(first, min(first + self._videos_per_file, len(self.index.names)))

    def captions(self, shard: int) -> range:
        """The captions of a file of text features."""
        assert self.index.captions is not None
        first = shard * CAPTIONS_PER_FILE
        return range(first, min(first + CAPTIONS_PER_FILE, len(self.index.captions.texts)))

    def entry(self, video: int, clip: int, mirrored: bool = False) -> str:
        """The name of a clip's entry."""
        return f"{video}.{clip}{'m' if mirrored else ''}"

    def entries(self, video: int) -> Iterator[str]:
        """The names of all entries of a video."""
        for clip in range(self.clips):
            yield self.entry(video, clip)
            if self.mirrored:
                yield self.entry(video, clip, True)

    def check(self, shard: int, content: bool) -> dict[str, str]:
        """The broken videos of a file of latents, by name; `content`: check all bytes.

        Raises ValueError, with the path, unless the file is whole and belongs to this cache.
        """
        owners = {name: str(v) for v in self.videos(shard) for name in self.entries(v)}
        sizes = exactly(*self.index.latent_shape)
        expected = {name: {MEAN: sizes, STD: sizes} for name in owners}
        broken = check_shard(self.path(shard), self.identity, expected, self.dtype, content, owners)
        return {self.index.names[int(video)]: reason for video, reason in broken.items()}

    def check_texts(self, shard: int, content: bool) -> None:
        """The same for a file of text features."""
        captions = self.index.captions
        assert captions is not None
        tokens, width = range(1, captions.tokens + 1), range(captions.width, captions.width + 1)
        sizes: dict[str, Sizes] = {str(number): (tokens, width) for number in self.captions(shard)}
        if shard == 0:
            sizes[UNCONDITIONAL] = exactly(captions.tokens, captions.width)
        expected = {name: {TEXT: size} for name, size in sizes.items()}
        check_shard(self.text_path(shard), self.identity, expected, self.dtype, content)
