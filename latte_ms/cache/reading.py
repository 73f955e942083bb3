"""A finished cache as a data set of distributions of latents."""

import logging
from pathlib import Path

import numpy as np

from latte_ms.cache.configuration import LatentCacheConfig
from latte_ms.cache.index import INDEX, check_settings, read_index
from latte_ms.cache.layout import MEAN, STD, Layout
from latte_ms.cache.shards import CheckOnce, read_rows
from latte_ms.data.captions import Captions, read_captions
from latte_ms.data.datasets import DataConfig, Item
from latte_ms.messages import shown
from latte_ms.progress import progress
from latte_ms.weights import files
from latte_ms.weights.checksums import fingerprint

logger = logging.getLogger(__name__)


class CachedClips:
    """The clips of the usable videos of a cache; items are read from the files when needed.

    An item has `mean` and `std` (F + n, C, h, w) in the cache's dtype and otherwise the entries of
    a `VideoDataset`'s item, F frames and n joint images. A clip is drawn from the stored ones;
    where mirrored copies are stored, half of the draws take the copy instead. A joint image is a
    random frame of a random clip of another video.

    Args:
        data, config: sections of the training recipe, which must ask for what the cache holds.
        hide_progress: no progress bar, such as on all ranks but one.
    Raises:
        FileNotFoundError: the folder has no index.
        ValueError: the recipe asks for something else, or a file is missing, damaged or of another
            cache. The bytes of a file are checked when it is read for the first time.
    """

    def __init__(
        self, data: DataConfig, config: LatentCacheConfig, hide_progress: bool = False
    ) -> None:
        folder = Path(config.path).expanduser()
        index = read_index(folder)
        if index is None:
            raise FileNotFoundError(
                f"`latent_cache.path` must be a folder that latte-encode has filled, got {folder}: "
                f"{INDEX} is missing."
            )
        check_settings(folder, index, data, config)
        if not index.complete:
            raise ValueError(
                f"`latent_cache.path` (={folder}) is not complete: run latte-encode again."
            )
        self.layout = Layout(folder, index)
        self.num_joint_images = data.num_joint_images
        broken = set(index.broken)
        self._videos = [i for i, name in enumerate(index.names) if name not in broken]
        if not self._videos:
            raise ValueError(f"`latent_cache.path` (={folder}) holds no usable video.")
        self.names = [index.names[video] for video in self._videos]
        self.labels = np.array([index.labels[v] for v in self._videos if index.labels], np.int32)
        self.captions = _captions_of(data.captions, self.names) if data.captions else None
        shards = range(self.layout.num_shards)
        for shard in progress(
            shards, desc="opening files", unit="file", disable=hide_progress or None
        ):
            if self.layout.check(shard, check_bytes=False).keys() - broken:
                raise ValueError(
                    f"{folder / INDEX} is damaged: its `broken` does not name all videos that the "
                    "files of latents record as broken."
                )
        self._check_once = CheckOnce(self.layout.check, len(shards))

    def __len__(self) -> int:
        return len(self._videos)

    @property
    def num_classes(self) -> int:
        return len(self.layout.index.class_names)

    @property
    def item_shape(self) -> tuple[int, int, int, int]:
        """Shape of an item's `mean` and `std`."""
        frames, *rest = self.layout.index.latent_shape
        return (frames + self.num_joint_images, *rest)  # type: ignore[return-value]

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """Item `index`; every random choice comes from `rng` alone.

        Raises IndexError out of range, ValueError for a damaged file.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in 0..{len(self) - 1}, got {index}.")
        frames = self.layout.index.latent_shape[0]
        clips, joint = [self._read(index, slice(None), rng)], []
        for _ in range(self.num_joint_images):
            other = int(rng.integers(len(self) - 1)) if len(self) > 1 else 0
            other += other >= index and len(self) > 1  # any video but this one
            frame = int(rng.integers(frames))
            clips.append(self._read(other, slice(frame, frame + 1), rng))
            joint.append(other)
        item = {name: np.concatenate([clip[name] for clip in clips]) for name in (MEAN, STD)}
        item["index"] = np.array(index, np.int32)
        if joint:
            item["image_indices"] = np.array(joint, np.int32)
        if len(self.labels):
            item["label"] = self.labels[index]
            if joint:
                item["image_labels"] = self.labels[joint]
        return item

    def _read(self, index: int, rows: slice, rng: np.random.Generator) -> Item:
        """Frames `rows` of a clip of a video, or of its mirrored copy, drawn at random."""
        layout, video = self.layout, self._videos[index]
        clip = int(rng.integers(layout.clips)) if layout.clips > 1 else 0
        mirrored = layout.mirrored and bool(rng.random() < 0.5)
        shard, name = layout.shard_of(video), layout.entry(video, clip, mirrored)
        self._check_once(shard)
        return read_rows(layout.path(shard), layout.cache_id, name, (MEAN, STD), rows)


def check_autoencoder(clips: CachedClips, vae: str, precision: str) -> None:
    """Raise ValueError where a recipe names another autoencoder than the one of the cache.

    Nothing is compared where it names none; one that is not there is only warned of.
    """
    if not vae:
        return
    if not Path(vae).exists():
        logger.warning(
            "`vae` (=%s) does not exist: it is not compared with the latent cache's.", vae
        )
        return
    ours = {"sha256": fingerprint(files.read(vae, "ema")), "precision": precision}
    stored = clips.layout.index.settings["autoencoder"]
    for name, value in ours.items():
        if stored[name] != value:
            raise ValueError(
                f"`{'vae' if name == 'sha256' else 'vae_precision'}` "
                f"(={vae if name == 'sha256' else precision}) must be what encoded "
                f"`latent_cache.path` (={clips.layout.folder}): {name} is {value}, was "
                f"{shown(stored[name])}. Encode again into another folder, or leave `vae` out."
            )


def _captions_of(path: str, names: list[str]) -> Captions:
    """The captions of these videos, in their order."""
    captions = read_captions(path)
    lacking = [name for name in names if name not in captions.caption_ids]
    if lacking:
        raise ValueError(
            f"`captions` (={path}) must name all videos of the latent cache; {len(lacking)} of "
            f"{len(names)} are missing: {shown(lacking[0])}."
        )
    return Captions(
        captions.texts,
        {name: captions.caption_ids[name] for name in names},
        {name: captions.lines[name] for name in names},
    )
