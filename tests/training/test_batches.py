"""Batches of training, from real videos through a real autoencoder."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.moving_shapes.shapes import write_shapes
from latte_ms.data.datasets import DataConfig, VideoDataset
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.training.batches import (
    Batch,
    CachedLatentBatches,
    LatentBatches,
    autoencoder_batches,
)
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.vae.autoencoder import AutoencoderKL, set_log_variance
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig

FRAMES, PIXELS, LATENTS = 4, 32, 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of four frames, one per class: the window is the whole video."""
    folder = tmp_path_factory.mktemp("shapes")
    assert len(list(write_shapes(folder, 1, 0, PIXELS, FRAMES, 1))) == 8
    return folder


@pytest.fixture(scope="module")
def codec() -> Codec:
    config = AutoencoderConfig(
        block_out_channels=(4, 8, 8), layers_per_block=1, norm_num_groups=2, scaling_factor=0.7
    )
    autoencoder = AutoencoderKL(config, seed=1)
    set_log_variance(autoencoder, -1.0)
    return Codec(autoencoder, FRAMES)


def network(**fields: Any) -> LatteConfig:
    defaults = {"input_size": LATENTS, "num_frames": FRAMES, "num_classes": 8}
    sizes = {"hidden_size": 16, "depth": 2, "num_heads": 2, "conditioning": "class"}
    return LatteConfig(**(defaults | sizes | fields))


def loader(videos: Path, batch_size: int = 2, rank: int = 0, ranks: int = 1, **data: Any) -> Loader:
    fields = {"classes": True, "image_size": PIXELS, "num_frames": FRAMES, "frame_interval": 1}
    dataset = VideoDataset(DataConfig(str(videos), **(fields | data)))
    return Loader(dataset, LoaderConfig(batch_size, seed=3), rank, ranks)


def first(batches: Any, count: int, start: int = 0) -> list[Batch]:
    return list(islice(batches(start), count))


def test_cached_latents_equal_encoding_online(videos: Path, codec: Codec) -> None:
    kept, online = (
        first(kind(loader(videos), codec, network(), 1000, seed=3), 3)
        for kind in (CachedLatentBatches, LatentBatches)
    )
    for ours, theirs in zip(kept, online, strict=True):
        assert np.abs(ours[0] - theirs[0]).max() <= 1e-5 * np.abs(theirs[0]).max()
        assert len(ours) == len(theirs) == 4
        for part, expected in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(part, expected)
            assert part.dtype == expected.dtype
    assert kept[0][0].shape == (2, FRAMES, 4, LATENTS, LATENTS)
    assert not np.allclose(kept[0][0], kept[1][0], atol=0.1)


@pytest.mark.parametrize("kind", [LatentBatches, CachedLatentBatches])
def test_a_start_in_the_middle_continues_the_run(
    videos: Path, codec: Codec, kind: type[LatentBatches]
) -> None:
    batches = kind(loader(videos), codec, network(), 1000, seed=3)
    for ours, theirs in zip(first(batches, 2, start=5), first(batches, 7)[5:], strict=True):
        for part, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(part, expected)


def test_dropped_labels_become_the_null_label(videos: Path, codec: Codec) -> None:
    batches = LatentBatches(loader(videos), codec, network(class_dropout_prob=0.5), 1000, seed=3)
    labels = np.concatenate([batch[3] for batch in first(batches, 8)])
    dropped = np.concatenate([batches.draws(step).dropped for step in range(8)])
    order = [batches.loader.indices(step)[1] for step in range(8)]
    true = batches.loader.dataset.labels[np.concatenate(order)]
    assert labels.dtype == np.int32
    assert 0 < dropped.sum() < 16
    np.testing.assert_array_equal(labels, np.where(dropped, 8, true))


def test_without_classes_there_are_no_labels(videos: Path, codec: Codec) -> None:
    unlabelled = loader(videos, classes=False)
    batches = LatentBatches(unlabelled, codec, network(conditioning="none"), 1000, seed=3)
    x0, noise, t = first(batches, 1)[0]
    assert x0.shape == noise.shape
    assert t.shape == (2,)
    assert t.dtype == np.int32


def test_joint_images_bring_their_own_labels(videos: Path, codec: Codec) -> None:
    joint = network(num_joint_images=2, class_dropout_prob=0.5)
    batches = LatentBatches(loader(videos, num_joint_images=2), codec, joint, 1000, seed=3)
    for step, (x0, noise, _, y, text, y_image) in enumerate(first(batches, 4)):
        assert x0.shape == noise.shape == (2, FRAMES + 2, 4, LATENTS, LATENTS)
        assert text is None
        assert y_image.shape == (2, 2)
        assert y_image.dtype == np.int32
        # The class of a video and those of its images are dropped together.
        dropped = batches.draws(step).dropped
        np.testing.assert_array_equal(y == 8, dropped)
        np.testing.assert_array_equal(y_image == 8, np.stack((dropped, dropped), 1))


def test_two_ranks_see_what_one_would(videos: Path, codec: Codec) -> None:
    whole = LatentBatches(loader(videos), codec, network(), 1000, seed=3)
    ranks = [
        LatentBatches(loader(videos, 1, rank, 2), codec, network(), 1000, seed=3) for rank in (0, 1)
    ]
    parts = [first(batches, 5) for batches in ranks]
    for step, expected in enumerate(first(whole, 5)):
        both = [np.concatenate((a, b)) for a, b in zip(parts[0][step], parts[1][step], strict=True)]
        assert np.abs(both[0] - expected[0]).max() <= 1e-5 * np.abs(expected[0]).max()
        for ours, theirs in zip(both[1:], expected[1:], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 16}, r"`network.input_size` \(=16\).*`data.image_size` \(=32\).*\(=4\)"),
        ({"in_channels": 8}, r"`network.in_channels` \(=8\).*`latent_channels` \(=4\)"),
        ({"num_classes": 5}, r"`network.num_classes` \(=5\).*folders \(=8\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    videos: Path, codec: Codec, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LatentBatches(loader(videos), codec, network(**fields), 1000, seed=3)


def test_the_autoencoder_sees_different_frames_of_each_clip(videos: Path) -> None:
    source = loader(videos)
    batches = autoencoder_batches(source, (4, LATENTS, LATENTS), 3, seed=3)
    pixels, noise = next(batches(0))
    assert (pixels.shape, pixels.dtype) == ((6, 3, PIXELS, PIXELS), np.float32)
    assert (noise.shape, noise.dtype) == ((6, 4, LATENTS, LATENTS), np.float32)
    clips = next(source.endless(0))["video"]
    for clip, picked in zip(clips, pixels.reshape(2, 3, *pixels.shape[1:]), strict=True):
        places = [np.flatnonzero((clip == frame).all((1, 2, 3))) for frame in picked]
        assert [len(place) for place in places] == [1, 1, 1]
        assert len(np.unique(places)) == 3


def test_batches_of_the_autoencoder_do_not_depend_on_ranks_or_the_start(videos: Path) -> None:
    size = (4, LATENTS, LATENTS)
    whole = first(autoencoder_batches(loader(videos), size, 2, seed=3), 6)
    again = first(autoencoder_batches(loader(videos), size, 2, seed=3), 1, start=5)
    halves = [
        first(autoencoder_batches(loader(videos, 1, rank, 2), size, 2, seed=3), 6)
        for rank in (0, 1)
    ]
    for part in range(2):
        np.testing.assert_array_equal(again[0][part], whole[5][part])
        both = np.concatenate((halves[0][5][part], halves[1][5][part]))
        np.testing.assert_array_equal(both, whole[5][part])


def test_more_frames_than_a_clip_has_are_all_of_them(videos: Path) -> None:
    pixels, _ = next(autoencoder_batches(loader(videos), (4, 8, 8), 99, seed=3)(0))
    assert len(pixels) == 2 * FRAMES
