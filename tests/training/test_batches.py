"""Batches of training, from real videos through a real autoencoder."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from examples.moving_shapes.shapes import write_shapes
from latte_ms.data.datasets import DataConfig, VideoDataset
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.data.text_embeddings import TextEmbeddings
from latte_ms.parallel.group import Group
from latte_ms.runtime import Rank
from latte_ms.training.batch import Batch, LatentBatch
from latte_ms.training.batches import LatentBatches, autoencoder_batches
from latte_ms.training.conditions import EmbeddingConditions, latte_conditions
from latte_ms.training.latents import ALL_FRAMES, EncodedClips, OnlineLatents, check_latent_shape
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


def latent_batches(
    loader: Loader,
    codec: Codec,
    config: LatteConfig,
    embeddings: TextEmbeddings | None = None,
    frames: slice = ALL_FRAMES,
) -> LatentBatches:
    dataset = loader.dataset
    conditions = latte_conditions(config, dataset.names, dataset.num_classes, embeddings)
    dropout = config.class_dropout_prob
    return LatentBatches(
        OnlineLatents(loader, codec, frames), conditions, config.clip_shape, 1000, 3, dropout
    )


def first(batches: Any, count: int, start: int = 0) -> list[Batch]:
    return list(islice(batches(start), count))


def assert_equal(ours: Batch, theirs: Batch) -> None:
    for part, expected in zip(ours.inputs, theirs.inputs, strict=True):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == expected.dtype
    assert_equal_conditions(ours, theirs)


def assert_equal_conditions(ours: Batch, theirs: Batch) -> None:
    assert ours.conditions.keys() == theirs.conditions.keys()
    for name, expected in theirs.conditions.items():
        np.testing.assert_array_equal(ours.conditions[name], expected)
        assert ours.conditions[name].dtype == expected.dtype


def assert_close_latents(ours: LatentBatch, theirs: LatentBatch) -> None:
    """Latents up to rounding, everything else exactly."""
    assert np.abs(ours.latents - theirs.latents).max() <= 1e-5 * np.abs(theirs.latents).max()
    assert_equal(replace(ours, latents=theirs.latents), theirs)


def joined(parts: Iterable[LatentBatch]) -> LatentBatch:
    """The batches of several ranks as one."""
    parts = list(parts)
    arrays = (np.concatenate(arrays) for arrays in zip(*(p.inputs for p in parts), strict=True))
    names = parts[0].conditions
    conditions = {name: np.concatenate([p.conditions[name] for p in parts]) for name in names}
    return LatentBatch(*arrays, conditions)


@pytest.mark.slow
def test_ranks_that_divide_a_clip_have_its_frames(videos: Path, codec: Codec) -> None:
    """Noise and the draw of the latents are those of the whole clip."""
    (whole,) = first(latent_batches(loader(videos), codec, network()), 1)
    assert isinstance(whole, LatentBatch)
    for index in range(2):
        frames = Group(Rank(index, 2), 2).part(FRAMES)
        (ours,) = first(latent_batches(loader(videos), codec, network(), frames=frames), 1)
        cut = replace(whole, latents=whole.latents[:, frames], noise=whole.noise[:, frames])
        assert_close_latents(ours, cut)


def test_a_start_in_the_middle_continues_the_run(videos: Path, codec: Codec) -> None:
    batches = latent_batches(loader(videos), codec, network())
    for ours, theirs in zip(first(batches, 2, start=5), first(batches, 7)[5:], strict=True):
        assert_equal(ours, theirs)


def test_dropped_labels_become_the_null_label(videos: Path, codec: Codec) -> None:
    source = loader(videos)
    batches = latent_batches(source, codec, network(class_dropout_prob=0.5))
    labels = np.concatenate([batch.conditions["y"] for batch in first(batches, 8)])
    dropped = np.concatenate([batches.draws(step).dropped for step in range(8)])
    order = [source.order.indices(step)[1] for step in range(8)]
    true = source.dataset.labels[np.concatenate(order)]
    assert labels.dtype == np.int32
    assert 0 < dropped.sum() < 16
    np.testing.assert_array_equal(labels, np.where(dropped, 8, true))


def test_without_classes_there_are_no_labels(videos: Path, codec: Codec) -> None:
    unlabelled = loader(videos, classes=False)
    batches = latent_batches(unlabelled, codec, network(conditioning="none"))
    batch = first(batches, 1)[0]
    assert batch.conditions == {}
    assert batch.latents.shape == batch.noise.shape
    assert batch.timesteps.shape == (2,)
    assert batch.timesteps.dtype == np.int32


def test_joint_images_bring_their_own_labels(videos: Path, codec: Codec) -> None:
    joint = network(num_joint_images=2, class_dropout_prob=0.5)
    batches = latent_batches(loader(videos, num_joint_images=2), codec, joint)
    for step, batch in enumerate(first(batches, 4)):
        assert batch.latents.shape == batch.noise.shape == (2, FRAMES + 2, 4, LATENTS, LATENTS)
        assert set(batch.conditions) == {"y", "y_image"}
        y, y_image = batch.conditions["y"], batch.conditions["y_image"]
        assert y_image.shape == (2, 2)
        assert y_image.dtype == np.int32
        # The class of a video and those of its images are dropped together.
        dropped = batches.draws(step).dropped
        np.testing.assert_array_equal(y == 8, dropped)
        np.testing.assert_array_equal(y_image == 8, np.stack((dropped, dropped), 1))


def test_two_ranks_see_what_one_would(videos: Path, codec: Codec) -> None:
    whole = latent_batches(loader(videos), codec, network())
    ranks = [latent_batches(loader(videos, 1, rank, 2), codec, network()) for rank in (0, 1)]
    parts = [first(batches, 5) for batches in ranks]
    for step, expected in enumerate(first(whole, 5)):
        assert_close_latents(joined((parts[0][step], parts[1][step])), expected)


@pytest.fixture(scope="module")
def captioned(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, TextEmbeddings]:
    """Embeddings of all videos, each its number; by whether there is an unconditional one, -1."""
    names, folder = loader(videos).dataset.names, tmp_path_factory.mktemp("embeddings")
    arrays = {name: np.full((2, 3), i, np.float16) for i, name in enumerate(names)}
    save_file(arrays, folder / "plain.safetensors")
    arrays["unconditional"] = np.full((2, 3), -1, np.float16)
    save_file(arrays, folder / "with_null.safetensors")
    return {
        False: TextEmbeddings(folder / "plain.safetensors", (2, 3)),
        True: TextEmbeddings(folder / "with_null.safetensors", (2, 3)),
    }


def text_batches(
    videos: Path, codec: Codec, embeddings: TextEmbeddings, **sizes: int
) -> LatentBatches:
    fields = {"conditioning": "text", "class_dropout_prob": 0.5, "text_tokens": 2, "text_width": 3}
    clips = loader(videos, classes=False, **sizes)
    return latent_batches(clips, codec, network(**fields), embeddings)


@pytest.mark.parametrize("unconditional", [False, True])
def test_captions_are_dropped_only_for_an_unconditional_one(
    videos: Path,
    codec: Codec,
    captioned: dict[bool, TextEmbeddings],
    unconditional: bool,
) -> None:
    batches = text_batches(videos, codec, captioned[unconditional])
    dropped = np.concatenate([batches.draws(step).dropped for step in range(8)])
    numbers = np.concatenate([batches.source.order.indices(step)[1] for step in range(8)])
    assert 0 < dropped.sum() < 16
    expected = np.where(dropped, -1, numbers) if unconditional else numbers
    parts = [batch.conditions["text_embedding"] for batch in first(batches, 8)]
    assert {(part.shape, part.dtype.name) for part in parts} == {((2, 2, 3), "float32")}
    np.testing.assert_array_equal(
        np.concatenate(parts), np.broadcast_to(expected[:, None, None], (16, 2, 3))
    )


def test_captions_that_cannot_be_dropped_are_warned_of(
    captioned: dict[bool, TextEmbeddings], caplog: pytest.LogCaptureFixture
) -> None:
    EmbeddingConditions(captioned[True], []).warn_of_dropout(0.1)
    EmbeddingConditions(captioned[False], []).warn_of_dropout(0.0)
    assert caplog.text == ""
    EmbeddingConditions(captioned[False], []).warn_of_dropout(0.1)
    assert "has no array `unconditional`: no caption is dropped" in caplog.text
    assert "`network.class_dropout_prob` is 0.1" in caplog.text


def test_captions_do_not_depend_on_ranks_or_the_start(
    videos: Path, codec: Codec, captioned: dict[bool, TextEmbeddings]
) -> None:
    whole = first(text_batches(videos, codec, captioned[True]), 6)
    ranks = [
        first(text_batches(videos, codec, captioned[True], batch_size=1, rank=rank, ranks=2), 6)
        for rank in (0, 1)
    ]
    for step, expected in enumerate(whole):
        assert_close_latents(joined((ranks[0][step], ranks[1][step])), expected)
    for ours, theirs in zip(
        first(text_batches(videos, codec, captioned[True]), 2, start=4), whole[4:], strict=True
    ):
        assert_equal(ours, theirs)


def test_text_embeddings_that_do_not_fit_are_named(
    videos: Path, codec: Codec, captioned: dict[bool, TextEmbeddings], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"`embeddings` .*conditioning` text \(is class\)"):
        latent_batches(loader(videos), codec, network(), captioned[True])
    with pytest.raises(ValueError, match=r"`embeddings` .*conditioning` text \(is text\)"):
        latent_batches(loader(videos), codec, network(conditioning="text"))
    save_file({"other": np.zeros((2, 3), np.float32)}, tmp_path / "t.safetensors")
    with pytest.raises(
        ValueError, match=r"`data.path` .*t.safetensors; 8 of 8 have none: .*, .*, .*, \.\.\."
    ):
        text_batches(videos, codec, TextEmbeddings(tmp_path / "t.safetensors", (2, 3)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 16}, r"`network.input_size` \(=16\).*`data.image_size` \(=32\).*\(=4\)"),
        ({"in_channels": 8}, r"`network.in_channels` \(=8\).*`latent_channels` \(=4\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    codec: Codec, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_latent_shape(network(**fields), PIXELS, codec)


def test_too_few_classes_are_named() -> None:
    with pytest.raises(ValueError, match=r"`network.num_classes` \(=5\).*folders \(=8\)"):
        latte_conditions(network(num_classes=5), [], 8)


def test_the_autoencoder_sees_different_frames_of_each_clip(videos: Path) -> None:
    source = loader(videos)
    batches = autoencoder_batches(source, (4, LATENTS, LATENTS), 3, seed=3)
    pixels, noise = next(batches(0)).inputs
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
        np.testing.assert_array_equal(again[0].inputs[part], whole[5].inputs[part])
        both = np.concatenate((halves[0][5].inputs[part], halves[1][5].inputs[part]))
        np.testing.assert_array_equal(both, whole[5].inputs[part])


def test_more_frames_than_a_clip_has_are_all_of_them(videos: Path) -> None:
    pixels, _ = next(autoencoder_batches(loader(videos), (4, 8, 8), 99, seed=3)(0)).inputs
    assert len(pixels) == 2 * FRAMES


def test_a_label_without_a_row_is_refused_where_it_enters(videos: Path, codec: Codec) -> None:
    batches = latent_batches(loader(videos), codec, network(class_dropout_prob=0.0))
    clips = EncodedClips({"label": np.array([0, 8])}, lambda noise: noise)
    with pytest.raises(ValueError, match=r"`y` must be in \[0, 8\) .* got 8"):
        batches.batch(clips, batches.draws(0))
