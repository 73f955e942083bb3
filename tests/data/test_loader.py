"""The order of batches: seeded, sharded, resumable, the same for any number of workers."""

import re
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.data.datasets import DataConfig, Item, VideoDataset
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.data.video_file import DecodeError


@pytest.fixture(scope="module")
def dataset(shapes: Path) -> VideoDataset:
    # Half of the frames, so that windows are drawn; a flip and joint images add more draws.
    return VideoDataset(
        DataConfig(
            path=str(shapes),
            classes=True,
            image_size=64,
            num_frames=4,
            frame_interval=2,
            flip=True,
            num_joint_images=1,
            cache=True,
        )
    )


def loader(
    dataset: VideoDataset, replica: int = 0, num_replicas: int = 1, **changes: Any
) -> Loader:
    values = {"batch_size": 6, "seed": 3, "num_workers": 2}
    return Loader(dataset, LoaderConfig(**(values | changes)), replica, num_replicas)


def take(batches: Any, count: int) -> list[Item]:
    taken = list(islice(batches, count))
    batches.close()
    return taken


def same(a: list[Item], b: list[Item]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x)
        for x, y in zip(a, b, strict=True)
    )


def test_a_batch_is_stacked_items(dataset: VideoDataset):
    (batch,) = take(loader(dataset).endless(), 1)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "video": ((6, 5, 3, 64, 64), "float32"),
        "index": ((6,), "int32"),
        "image_indices": ((6, 1), "int32"),
        "label": ((6,), "int32"),
        "image_labels": ((6, 1), "int32"),
    }


@pytest.mark.parametrize("changes", [{"num_workers": 1}, {"num_workers": 5}, {"prefetch": 7}])
def test_workers_and_prefetching_do_not_change_a_batch(
    dataset: VideoDataset, changes: dict[str, int]
):
    expected = take(loader(dataset).endless(), 5)
    assert same(take(loader(dataset, **changes).endless(), 5), expected)


def test_another_seed_changes_order_and_windows(dataset: VideoDataset):
    batches = [take(loader(dataset, seed=seed).endless(), 2) for seed in (3, 4)]
    assert not same(*batches)


@pytest.mark.parametrize("start", [1, 5, 8, 9, 17])
def test_a_run_resumes_at_any_step(dataset: VideoDataset, start: int):
    """Epochs have 8 steps: the resumed part may begin in, at the end of, or after an epoch."""
    ours = loader(dataset)
    assert ours.order.batches_per_epoch == 8
    whole = take(ours.endless(), start + 3)
    assert same(take(loader(dataset).endless(start_batch=start), 3), whole[start:])


def test_epochs_hold_everything_once_in_different_orders(dataset: VideoDataset):
    ours = loader(dataset, batch_size=16)
    epochs = [
        np.concatenate([ours.order.indices(step)[1] for step in range(3 * e, 3 * e + 3)])
        for e in range(3)
    ]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(48))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    assert not np.array_equal(epochs[0], np.arange(48))


def test_the_same_video_differs_between_epochs(dataset: VideoDataset):
    ours = loader(dataset, batch_size=48, shuffle=False, num_workers=2)
    first, second = take(ours.endless(), 2)
    assert np.array_equal(first["label"], second["label"])
    changed = (first["video"][:, :4] != second["video"][:, :4]).any(axis=(1, 2, 3, 4))
    assert changed.mean() > 0.8


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_share_the_global_batch(dataset: VideoDataset, count: int):
    """Whatever the number of ranks, together they see what one replica with a large batch sees."""
    whole = take(loader(dataset, batch_size=6).endless(), 4)
    parts = [
        take(loader(dataset, replica, count, batch_size=6 // count).endless(), 4)
        for replica in range(count)
    ]
    joined = [
        {key: np.concatenate([part[step][key] for part in parts]) for key in whole[step]}
        for step in range(4)
    ]
    assert same(joined, whole)


def test_without_shuffling_the_order_is_that_of_the_folder(dataset: VideoDataset):
    batches = list(loader(dataset, shuffle=False, batch_size=16).epoch())
    labels = np.concatenate([batch["label"] for batch in batches])
    assert labels.tolist() == sorted(labels.tolist())


def test_the_incomplete_batch_is_dropped_on_every_rank(dataset: VideoDataset):
    sizes = [len(batch["label"]) for batch in loader(dataset, batch_size=20).epoch()]
    assert sizes == [20, 20]
    ours = loader(dataset, batch_size=20)
    assert [len(batch["label"]) for batch in ours.epoch(epoch=2)] == [20, 20]
    assert [len(batch["label"]) for batch in ours.epoch(start_batch=1)] == [20]
    shares = [
        [len(b["label"]) for b in loader(dataset, r, 2, batch_size=20).epoch()] for r in range(2)
    ]
    assert shares == [[20], [20]]


def test_a_batch_larger_than_the_set_is_an_error_at_once(dataset: VideoDataset):
    with pytest.raises(ValueError, match=re.escape("`batch_size` (=25) times 2 replicas")):
        loader(dataset, 0, 2, batch_size=25)
    with pytest.raises(ValueError, match=re.escape("`replica` (=2) must be in 0..")):
        loader(dataset, 2, 2)


@pytest.mark.parametrize("name", ["batch_size", "num_workers", "prefetch"])
def test_wrong_settings_are_named(name: str):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        LoaderConfig(**{name: 0})


def test_an_error_in_a_worker_reaches_the_caller(dataset: VideoDataset, tmp_path: Path, shapes):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(next(shapes.rglob("*.mp4")).read_bytes())
    lonely = VideoDataset(
        DataConfig(path=str(tmp_path), image_size=64, num_frames=4, frame_interval=1)
    )
    copy.unlink()
    with pytest.raises(DecodeError, match="none of its 1 videos can be read"):
        next(Loader(lonely, LoaderConfig()).endless())


def test_stopping_leaves_no_threads(dataset: VideoDataset):
    before = threading.active_count()
    batches = loader(dataset).endless()
    next(batches)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    batches.close()  # no thread starts after it
    for thread in [t for t in threading.enumerate() if t.name.startswith("loader")]:
        thread.join(timeout=10)
    assert threading.active_count() <= before
