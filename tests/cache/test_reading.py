"""What training gets from a cache: the distributions of the encoder, and what is drawn of them."""

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from latte_ms.cache.reading import CachedClips
from latte_ms.data.datasets import VideoDataset
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.runtime import Rank
from latte_ms.training import assembly
from latte_ms.training.batch import LatentBatch
from latte_ms.training.batches import LatentBatches
from latte_ms.training.latents import OnlineLatents
from latte_ms.training.recipe import TrainConfig
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig
from latte_ms.weights.pretrained import save_pretrained
from scripts import train

Recipe = Callable[..., TrainConfig]
TOLERANCE = 1e-5
ALONE = Rank()


def batches(cfg: TrainConfig, count: int, rank: Rank = ALONE) -> list[LatentBatch]:
    return list(islice(train.build_batches(cfg, rank)(0), count))


def test_training_sees_what_encoding_at_each_use_gives(
    recipe: Recipe, plain: Path, codec: Codec
) -> None:
    """The same windows and random numbers: latents, noise, timesteps and labels of an epoch."""
    cfg = recipe(latent_cache__path=plain)
    dataset = VideoDataset(cfg.data, augment=False)  # the middle window
    source = OnlineLatents(Loader(dataset, LoaderConfig(2, cfg.loop.seed)), codec)
    conditions = assembly.conditions_of(cfg, dataset)
    online = LatentBatches(source, conditions, (3, 4, 8, 8), 1000, cfg.loop.seed, cfg.dropout)
    for ours, theirs in zip(batches(cfg, 3), islice(online(0), 3), strict=True):
        largest = np.abs(theirs.latents).max()
        np.testing.assert_allclose(ours.latents, theirs.latents, atol=TOLERANCE * largest, rtol=0)
        assert np.array_equal(ours.noise, theirs.noise)
        assert np.array_equal(ours.timesteps, theirs.timesteps)
        assert np.array_equal(ours.conditions["y"], theirs.conditions["y"])


def test_every_epoch_has_a_fresh_sample_and_every_run_the_same(recipe: Recipe, plain: Path) -> None:
    cfg = recipe(latent_cache__path=plain)
    order = train.build_batches(cfg, Rank()).source.order
    runs = [batches(cfg, 6), batches(cfg, 6)]
    videos = [order.indices(number)[1].tolist() for number in range(6)]
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first.latents, second.latents)
    latents = {
        (number // 3, video): runs[0][number].latents[place]
        for number, chosen in enumerate(videos)
        for place, video in enumerate(chosen)
    }
    assert len(latents) == 12, "two epochs of six videos"
    for video in range(6):
        assert not np.array_equal(latents[0, video], latents[1, video])


def test_two_ranks_see_the_batch_of_one(several: TrainConfig) -> None:
    half = dataclasses.replace(several, loop=dataclasses.replace(several.loop, batch_size=1))
    parts = [batches(half, 3, Rank(index, 2)) for index in range(2)]
    for number, whole in enumerate(batches(several, 3)):
        together = np.concatenate([part[number].latents for part in parts])
        assert np.array_equal(together, whole.latents)
        labels = np.concatenate([part[number].conditions["y"] for part in parts])
        assert np.array_equal(labels, whole.conditions["y"])


def test_windows_and_mirrored_copies_are_drawn_evenly(several: TrainConfig, codec: Codec) -> None:
    clips = CachedClips(several.data, several.latent_cache)
    stored = load_file(clips.layout.path(0))
    means = {name[5:]: array for name, array in stored.items() if name.startswith("mean.1.")}
    assert sorted(means) == ["1.0", "1.0m", "1.1", "1.1m"]
    assert len({array.tobytes() for array in means.values()}) == 4
    drawn = []
    for number in range(200):
        item = clips.item(1, np.random.default_rng(number))
        drawn += [name for name, array in means.items() if np.array_equal(array, item["mean"])]
    counts = [drawn.count(name) for name in means]
    assert sum(counts) == 200
    assert min(counts) > 30, "50 of each are expected, with a deviation of 6"
    dataset = VideoDataset(dataclasses.replace(several.data, flip=False))
    pixels = dataset.clip(1, np.random.default_rng([4, 0, 1, 1]))[None]
    for name, shown in (("1.1", pixels), ("1.1m", pixels[..., ::-1])):
        mean, std = codec.mean_and_std(np.ascontiguousarray(shown))
        assert np.array_equal(mean[0], means[name])
        assert np.array_equal(std[0], stored[f"std.{name}"])


def test_joint_images_are_frames_of_other_videos_of_the_cache(recipe: Recipe, plain: Path) -> None:
    cfg = recipe(latent_cache__path=plain, data__num_joint_images=2)
    assert train.build_batches(cfg, Rank()).shape == (2, 5, 4, 8, 8)
    clips = CachedClips(cfg.data, cfg.latent_cache)
    stored = [load_file(clips.layout.path(shard)) for shard in range(2)]
    frames = set()
    for number in range(40):
        item = clips.item(number % 6, np.random.default_rng(number))
        assert np.array_equal(item["mean"][:3], stored[number % 6 // 4][f"mean.{number % 6}.0"])
        for place, video in enumerate(item["image_indices"].tolist()):
            assert video != number % 6
            assert "ab"[item["image_labels"][place]] == clips.names[video][0]
            images = stored[video // 4]
            for part in ("mean", "std"):
                equal = [
                    frame
                    for frame in range(3)
                    if np.array_equal(images[f"{part}.{video}.0"][frame], item[part][3 + place])
                ]
                assert len(equal) == 1
            frames.add((video, *equal))
    assert len(frames) == 18, "every frame of every video is drawn"


def test_captions_are_those_of_the_videos_in_the_cache(
    fill: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """In the order of the cache, whatever the order of the file, and other videos are left out."""
    path = tmp_path / "captions.csv"
    cfg = fill(tmp_path / "cache", data__classes="false", network__conditioning="none")
    data = dataclasses.replace(cfg.data, captions=str(path))
    names = CachedClips(cfg.data, cfg.latent_cache).names
    lines = [f"{name},caption {name}\n" for name in reversed(names)]
    path.write_text("path,caption\nother.mp4,another\n" + "".join(lines))
    captions = CachedClips(data, cfg.latent_cache).captions
    assert captions is not None
    assert captions.names == names
    assert [captions.texts[captions.choose(i, 0.0)] for i in range(6)] == [
        f"caption {name}" for name in names
    ]
    path.write_text("path,caption\n" + "".join(lines[1:]))
    with pytest.raises(ValueError, match=f"1 of 6 are missing: '{names[-1]}'"):
        CachedClips(data, cfg.latent_cache)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__image_size": 32}, "`data.image_size` is 32, was 16 when it was encoded"),
        ({"data__num_frames": 2}, "`data.num_frames` is 2, was 3"),
        ({"data__frame_interval": 2}, "`data.frame_interval` is 2, was 1"),
        ({"data__crop": "crop_resize"}, "`data.crop` is 'crop_resize', was 'resize_crop'"),
        ({"data__flip": "true"}, "`data.flip` is True, was False"),
        ({"latent_cache__dtype": "float16"}, "`latent_cache.dtype` is 'float16', was 'float32'"),
        ({"latent_cache__clips_per_video": 2}, "`latent_cache.clips_per_video` is 2, was 1"),
        ({"network__input_size": 4}, r"are \(3, 4, 8, 8\) .* `network` takes \(3, 4, 4, 4\)"),
        ({"vae_precision": "float16"}, r"`vae_precision` \(=float16\) must be what encoded"),
        ({"data__cache": "true"}, "`data.cache` must be false with `latent_cache.path`"),
        ({"latent_cache__seed": 1}, r"`latent_cache.seed` \(=1\) must be 0 where no windows"),
    ],
)
def test_a_recipe_that_asks_for_something_else_is_refused(
    recipe: Recipe, plain: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train.build_batches(recipe(latent_cache__path=plain, **changes), Rank())


def test_a_cache_needs_neither_videos_nor_autoencoder(recipe: Recipe, plain: Path) -> None:
    whole = batches(recipe(latent_cache__path=plain), 1)[0]
    alone = batches(recipe(latent_cache__path=plain, data__path="''", vae="''"), 1)[0]
    assert np.array_equal(whole.latents, alone.latents)
    with pytest.raises(ValueError, match=r"`latent_cache.path` must name a folder"):
        recipe(latent_cache__clips_per_video=2)


def test_another_autoencoder_is_refused_and_a_missing_one_is_warned_of(
    recipe: Recipe, plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = AutoencoderConfig(block_out_channels=(4, 8), norm_num_groups=2, sample_size=16)
    save_pretrained(AutoencoderKL(fields, seed=1), tmp_path / "vae")
    with pytest.raises(ValueError, match=r"`vae` .* must be what encoded `latent_cache.path`"):
        train.build_batches(recipe(latent_cache__path=plain, vae=tmp_path / "vae"), Rank())
    train.build_batches(recipe(latent_cache__path=plain, vae=tmp_path / "none"), Rank())
    assert "`vae`" in caplog.text
