"""Encode videos and captions of a training recipe once: `encode.py --config FILE [key=value ...]`.

The recipe is that of `train.py`, with `latent_cache.path=FOLDER` for the videos,
`caption_cache.path=FOLDER` for the captions, or both. Training with the same recipe then reads the
folders, and neither videos nor autoencoder, nor text encoder. Running the same command again goes
on with the files that are missing or damaged. Several devices: `msrun --worker_num=8
--local_worker_num=8 --join=True scripts/encode.py --config FILE runtime.distributed=true`.
"""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from latte_ms import runtime
from latte_ms.atomic import remove_partial
from latte_ms.cache import captions as caption_cache
from latte_ms.cache.caption_encoding import CaptionWriter
from latte_ms.cache.captions import CaptionIndex, CaptionLayout
from latte_ms.cache.encoding import LatentEncoder, finished, missing
from latte_ms.cache.index import (
    Index,
    check_same,
    data_settings,
    read_index,
    write_index,
)
from latte_ms.cache.layout import Layout
from latte_ms.config import exit_on_error, parse
from latte_ms.data.captions import read_captions
from latte_ms.data.datasets import VideoDataset
from latte_ms.options import text
from latte_ms.parallel.barrier import Barrier
from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.lock import FolderLock
from latte_ms.runtime import Rank
from latte_ms.terminal import say
from latte_ms.text.encoder import PromptEncoder
from latte_ms.text.tokenizer import MAX_TOKENS, T5Tokenizer, T5TokenizerFast
from latte_ms.training import assembly
from latte_ms.training.recipe import T2VTrainConfig, TrainConfig
from latte_ms.vae.codec import Codec
from latte_ms.weights import files
from latte_ms.weights.checksums import fingerprint
from latte_ms.weights.maps import T5_ENCODER
from latte_ms.weights.pretrained import load_autoencoder

_LATENTS, _CAPTIONS = "latent_cache.path", "caption_cache.path"


def main(arguments: list[str] | None = None) -> None:
    cfg = parse(TrainConfig, arguments, __doc__)
    with exit_on_error(), ExitStack() as stack:
        folders = folders_of(cfg)
        barriers: dict[str, Barrier] = {}
        if cfg.runtime.distributed:
            for key, folder in folders.items():
                folder.mkdir(parents=True, exist_ok=True)
                barriers[key] = Barrier(folder)
        rank = runtime.setup(cfg.runtime)
        for key, folder in folders.items():
            if rank.is_first:
                stack.enter_context(FolderLock(folder, key))
        if _LATENTS in folders:
            codec = build_codec(cfg)
            encode(cfg, codec, folders[_LATENTS], rank, barriers.get(_LATENTS))
        if _CAPTIONS in folders:
            assert isinstance(cfg, T2VTrainConfig)
            encoder = assembly.caption_encoder(cfg)
            encode_captions(cfg, encoder, folders[_CAPTIONS], rank, barriers.get(_CAPTIONS))


def folders_of(cfg: TrainConfig) -> dict[str, Path]:
    """The folders to fill, by their keys. Raises ValueError where the recipe lacks a key."""
    needed = {_LATENTS: {"vae": cfg.vae, "data.path": cfg.data.path}}
    paths = {_LATENTS: cfg.latent_cache.path}
    if isinstance(cfg, T2VTrainConfig):
        needed[_CAPTIONS] = {"text_encoder": cfg.text_encoder, "tokenizer": cfg.tokenizer}
        paths[_CAPTIONS] = cfg.caption_cache.path
    found = {key: Path(path).expanduser() for key, path in paths.items() if path}
    if not found:
        raise ValueError(f"`{'` or `'.join(paths)}` must name a folder to fill, got none.")
    for key in found:
        for name, value in needed[key].items():
            text(name, value)
    if len(set(found.values())) < len(found):
        raise ValueError(f"`{'` and `'.join(found)}` must be two folders, got {found[key]} twice.")
    return found


def encode(
    cfg: TrainConfig, codec: Codec, folder: Path, rank: Rank, barrier: Barrier | None
) -> None:
    """Write this rank's share of the missing files; the first rank also writes the index."""
    dataset = build_dataset(cfg)
    if rank.is_first:
        begin(folder, build_index(cfg, dataset, codec))
    Communicator(rank).wait()  # for the index
    index = read_index(folder)
    if index is None:
        raise ValueError(
            f"`{_LATENTS}` (={folder}) must be a folder that all machines of a run share."
        )
    layout, hide_progress = Layout(folder, index), not rank.is_first
    share = {i: layout.path(i) for i in range(rank.index, layout.num_shards, rank.count)}
    left = missing(share, layout.check, hide_progress)
    start = time.perf_counter()
    own = LatentEncoder(layout, dataset, codec, cfg.loop.num_workers).write(left, hide_progress)
    count = total_of(own, rank, barrier)
    seconds = time.perf_counter() - start
    if rank.is_first:
        index = dataclasses.replace(index, broken=finished(layout), complete=True)
        write_index(folder, index)
        say(summary(folder, index, count, seconds, rank.count))


def encode_captions(
    cfg: T2VTrainConfig,
    encoder: PromptEncoder,
    folder: Path,
    rank: Rank,
    barrier: Barrier | None,
) -> None:
    """As `encode`, for captions."""
    texts = read_captions(cfg.data.captions).texts
    if rank.is_first:
        begin_captions(folder, build_caption_index(cfg, encoder, texts))
    Communicator(rank).wait()  # for the index
    index = caption_cache.read_index(folder)
    if index is None:
        raise ValueError(
            f"`{_CAPTIONS}` (={folder}) must be a folder that all machines of a run share."
        )
    layout, hide_progress = CaptionLayout(folder, index), not rank.is_first
    share = {i: layout.path(i) for i in layout.shards[rank.index :: rank.count]}
    left = missing(share, layout.check, hide_progress)
    start = time.perf_counter()
    writer = CaptionWriter(layout, texts, encoder, cfg.clean_captions)
    count = total_of(writer.write(left, hide_progress), rank, barrier)
    seconds = time.perf_counter() - start
    if rank.is_first:
        for shard in layout.shards:
            layout.check(shard, check_bytes=False)
        caption_cache.write_index(folder, dataclasses.replace(index, complete=True))
        rate = rate_of(count, "captions", seconds, rank.count)
        say(f"Caption cache: {folder}\n{len(texts)} captions, {megabytes(folder)}; {rate}")


def total_of(count: int, rank: Rank, barrier: Barrier | None) -> int:
    """The sum of `count` over the ranks, once all of them have written their files."""
    if barrier is not None:
        barrier.leave(wait=True)
    return int(Communicator(rank).sum([float(count)]).asnumpy()[0])


def rate_of(count: int, unit: str, seconds: float, ranks: int) -> str:
    """How fast all ranks together have encoded `count` of something."""
    if not count:
        return "nothing was left to encode"
    return f"{count / seconds:.1f} {unit}/s" + (f" on {ranks} ranks" if ranks > 1 else "")


def megabytes(folder: Path) -> str:
    """The size of the files in a folder."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return f"{size / 1e6:.1f} MB"


def build_caption_index(
    cfg: T2VTrainConfig, encoder: PromptEncoder, texts: Sequence[str]
) -> CaptionIndex:
    """What the folder is to hold."""
    tokenizer = encoder.tokenizer
    assert isinstance(tokenizer, T5Tokenizer | T5TokenizerFast)
    return CaptionIndex(
        settings={
            "text_encoder": fingerprint(files.read(cfg.text_encoder, T5_ENCODER.entry)),
            "tokenizer": tokenizer.sha256,
            "text_precision": cfg.text_precision,
            "clean_captions": cfg.clean_captions,
            "dtype": cfg.caption_cache.dtype,
        },
        texts_sha256=caption_cache.digest_of(texts),
        num_captions=len(texts),
        captions_per_file=cfg.caption_cache.captions_per_file,
        channels=encoder.config.d_model,
        num_rows=MAX_TOKENS,
    )


def begin_captions(folder: Path, index: CaptionIndex) -> None:
    """As `begin`, for captions."""
    remove_partial(folder)
    stored = caption_cache.read_index(folder)
    if stored is None:
        caption_cache.write_index(folder, index)
    else:
        caption_cache.check_same(folder, stored, index)


def build_dataset(cfg: TrainConfig) -> VideoDataset:
    """The videos of the recipe; clips are mirrored, and images chosen, later."""
    data = dataclasses.replace(cfg.data, flip=False, num_joint_images=0)
    return VideoDataset(data, augment=cfg.latent_cache.clips_per_video > 1)


def build_codec(cfg: TrainConfig) -> Codec:
    """The autoencoder of the recipe. Raises ValueError where the network takes other latents."""
    autoencoder = load_autoencoder(cfg.vae, runtime.compute_dtype(cfg.vae_precision))
    codec = Codec(autoencoder, cfg.vae_chunk_frames)
    assembly.clip_shape(cfg, codec)
    return codec


def build_index(cfg: TrainConfig, dataset: VideoDataset, codec: Codec) -> Index:
    """What the folder is to hold."""
    side = cfg.data.image_size // codec.config.downsampling
    autoencoder = {
        "config": {"class": codec.config.model, **dataclasses.asdict(codec.config)},
        "sha256": fingerprint(files.read(cfg.vae, "ema")),
        "precision": cfg.vae_precision,
    }
    return Index(
        settings={
            "data": data_settings(cfg.data),
            "latent_cache": cfg.latent_cache.settings,
            "autoencoder": autoencoder,
        },
        latent_shape=(cfg.data.num_frames, codec.config.latent_channels, side, side),
        names=dataset.names,
        labels=[int(label) for label in dataset.labels],
        class_names=list(dataset.class_names),
    )


def begin(folder: Path, index: Index) -> None:
    """Write the index into a new folder; raise ValueError where a folder has another one."""
    remove_partial(folder)
    stored = read_index(folder)
    if stored is not None:
        check_same(folder, stored, index)
        return
    index.check_fits_into_a_file(folder)
    write_index(folder, index)


def summary(folder: Path, index: Index, count: int, seconds: float, ranks: int) -> str:
    """Size, rate and broken videos, for the end."""
    usable = len(index.names) - len(index.broken)
    rate = rate_of(count, "clips", seconds, ranks)
    lines = [
        f"Latent cache: {folder}",
        f"{usable} videos of {len(index.names)}, {megabytes(folder)}; {rate}",
    ]
    lines += [f"skipped: {name}" for name in index.broken]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
