"""What a dataset holds, how clips are made of it, and what happens to bad files."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latte_ms.config import from_dict
from latte_ms.data.datasets import DataConfig, VideoDataset
from latte_ms.data.frame_folder import natural_key
from latte_ms.data.video_file import DecodeError

from .conftest import H264, SIDE, encode, numbered_frame, read_number


def config(path: Path, **changes: Any) -> DataConfig:
    values = {"path": str(path), "image_size": SIDE, "num_frames": 4, "frame_interval": 2}
    return DataConfig(**(values | changes))


def numbers(video: np.ndarray, flipped: bool = False) -> list[int]:
    """The numbers shown by (F, 3, S, S) network input."""
    frames = (video.transpose(0, 2, 3, 1) + 1) * 127.5
    return [read_number(frame[:, ::-1] if flipped else frame) for frame in frames]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three square videos of 20 numbered frames; video i counts from 40 * i."""
    root = tmp_path / "flat"
    for i in range(3):
        (root / "deep").mkdir(parents=True, exist_ok=True)
        frames = [numbered_frame(40 * i + n) for n in range(20)]
        encode(root / "deep" / f"clip_{i}.mp4", frames, *H264)
    return root


def test_class_folders_give_sorted_labels(class_folders: Path):
    data = VideoDataset(config(class_folders, classes=True))
    assert data.class_names == ["ants", "bees"]
    assert data.num_classes == 2
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    item = data.item(4, rng())
    assert item["video"].shape == data.item_shape == (4, 3, SIDE, SIDE)
    assert item["video"].dtype == np.float32
    assert item["label"] == 1
    assert item["label"].dtype == np.int32


def test_without_classes_there_is_no_label(class_folders: Path):
    data = VideoDataset(config(class_folders))
    assert len(data) == 5
    assert set(data.item(0, rng())) == {"video", "index"}
    assert data.num_classes == 0


def test_values_reach_both_ends_of_the_range(flat: Path):
    video = VideoDataset(config(flat)).item(0, rng())["video"]
    assert -1.0 <= video.min() < -0.7
    assert 0.6 < video.max() <= 1.0


def test_training_draws_windows_and_evaluation_takes_the_middle(flat: Path):
    training = VideoDataset(config(flat))
    starts = set()
    for seed in range(200):
        shown = numbers(training.item(1, rng(seed))["video"])
        assert np.diff(shown).tolist() == [2, 2, 2]
        starts.add(shown[0] - 40)
    assert starts == set(range(14))  # 20 - 7 + 1 places, the last window among them
    evaluation = VideoDataset(config(flat), augment=False)
    for seed in range(3):
        assert numbers(evaluation.item(1, rng(seed))["video"]) == [46, 48, 50, 52]


def test_one_flip_for_all_frames_and_none_in_evaluation(flat: Path):
    training = VideoDataset(config(flat, flip=True))
    mirrored = 0
    for seed in range(40):
        video = training.item(0, rng(seed))["video"]
        flipped = np.diff(numbers(video)).tolist() != [2, 2, 2]
        mirrored += flipped
        assert np.diff(numbers(video, flipped)).tolist() == [2, 2, 2]
    assert 10 < mirrored < 30
    evaluation = VideoDataset(config(flat, flip=True), augment=False)
    assert all(numbers(evaluation.item(0, rng(s))["video"])[0] == 6 for s in range(8))


def test_joint_images_are_frames_of_other_videos_with_their_labels(class_folders: Path):
    data = VideoDataset(config(class_folders, classes=True, num_joint_images=3))
    seen = set()
    for seed in range(12):
        item = data.item(0, rng(seed))
        assert item["video"].shape == data.item_shape == (7, 3, SIDE, SIDE)
        assert np.diff(numbers(item["video"][:4])).tolist() == [2, 2, 2]
        assert item["image_labels"].shape == (3,)
        assert item["image_labels"].dtype == np.int32
        for number, label in zip(numbers(item["video"][4:]), item["image_labels"], strict=True):
            assert number < (20 if label == 0 else 12)
            seen.add((number, int(label)))
    assert len(seen) > 12
    assert {label for _, label in seen} == {0, 1}


def test_a_single_video_lends_its_own_frames(tmp_path: Path):
    encode(tmp_path / "only.mp4", [numbered_frame(n) for n in range(9)], *H264)
    data = VideoDataset(config(tmp_path, num_joint_images=1))
    assert data.item(0, rng())["video"].shape == (5, 3, SIDE, SIDE)


@pytest.mark.parametrize("changes", [{}, {"flip": True, "num_joint_images": 2}])
def test_the_cache_changes_nothing(class_folders: Path, changes: dict[str, Any]):
    plain = VideoDataset(config(class_folders, classes=True, **changes))
    cached = VideoDataset(config(class_folders, classes=True, cache=True, **changes))
    tight = VideoDataset(
        config(class_folders, classes=True, cache=True, cache_limit_gb=8e-4, **changes)
    )
    for _ in range(2):
        for index in range(5):
            expected = plain.item(index, rng(index))
            for data in (cached, tight):
                item = data.item(index, rng(index))
                assert expected.keys() == item.keys()
                assert all(np.array_equal(expected[key], item[key]) for key in item)


def test_the_cache_reads_a_file_once(flat: Path):
    data = VideoDataset(config(flat, cache=True))
    first = [data.item(i, rng(i))["video"] for i in range(3)]
    shutil.rmtree(flat)
    assert all(np.array_equal(data.item(i, rng(i))["video"], first[i]) for i in range(3))


class TestBadFiles:
    @pytest.fixture
    def damaged(self, flat: Path) -> Path:
        (flat / "deep" / "bad.mp4").write_bytes(b"not a video")  # sorted first
        encode(flat / "short.mp4", [numbered_frame(n) for n in range(6)], *H264)
        return flat

    def test_reported_once_with_the_path_and_replaced(
        self, damaged: Path, caplog: pytest.LogCaptureFixture
    ):
        with caplog.at_level(logging.WARNING):
            data = VideoDataset(config(damaged))
            for seed in range(6):
                for index in range(len(data)):
                    assert data.item(index, rng(seed))["video"].shape == (4, 3, SIDE, SIDE)
        messages = [record.getMessage() for record in caplog.records]
        assert sum("bad.mp4: cannot be opened" in message for message in messages) == 1
        assert sum("short.mp4: is too short, 6 frames" in message for message in messages) == 1
        assert len(messages) == 2

    def test_the_replacement_depends_on_the_random_numbers_alone(self, damaged: Path):
        fresh = [VideoDataset(config(damaged)).item(0, rng(s))["video"] for s in range(8)]
        data = VideoDataset(config(damaged))
        for seed in reversed(range(8)):
            assert np.array_equal(data.item(0, rng(seed))["video"], fresh[seed])
        assert len({numbers(video)[0] // 40 for video in fresh}) > 1

    def test_a_replacement_brings_its_own_label(self, class_folders: Path, tmp_path: Path):
        root = shutil.copytree(class_folders, tmp_path / "copy")
        for path in (root / "ants").iterdir():
            path.write_bytes(b"")
        data = VideoDataset(config(root, classes=True))
        assert data.class_names == ["ants", "bees"]
        assert {int(data.item(i, rng(i))["label"]) for i in range(5)} == {1}

    def test_nothing_readable_is_an_error_before_training(self, tmp_path: Path):
        for name in ("a.mp4", "b.avi"):
            (tmp_path / name).write_bytes(b"no")
        with pytest.raises(ValueError, match="none of its 2 videos can be used"):
            VideoDataset(config(tmp_path))

    def test_all_too_short_is_an_error_before_training(self, flat: Path):
        with pytest.raises(ValueError, match="none of its 3 videos can be used"):
            VideoDataset(config(flat, num_frames=16, frame_interval=3))

    def test_files_that_break_later_end_in_an_error(self, flat: Path):
        data = VideoDataset(config(flat))
        shutil.rmtree(flat)
        with pytest.raises(DecodeError, match="none of its 3 videos can be read"):
            data.item(0, rng())

    def test_videos_of_several_kinds_with_a_damaged_one(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        frames = [numbered_frame(number, width=96) for number in range(60)]
        for name in ("a.mkv", "b.avi", "c.mp4", "damaged.mp4"):
            encode(tmp_path / name, frames, *H264, "-g", "60")
        data = bytearray((tmp_path / "damaged.mp4").read_bytes())
        start = data.index(b"mdat")
        end = data.index(b"moov")
        data[start + 8 : end] = bytes(end - start - 8)
        (tmp_path / "damaged.mp4").write_bytes(data)
        videos = VideoDataset(config(tmp_path))
        assert len(videos) == 4
        with caplog.at_level(logging.WARNING):
            for seed in range(3):
                for index in range(4):
                    shown = numbers(videos.item(index, rng(seed))["video"])
                    assert shown == list(range(shown[0], shown[0] + 8, 2))
        assert [r.getMessage().count("damaged.mp4") for r in caplog.records] == [1]


class TestFindingFiles:
    def test_missing_empty_and_wrong_folders(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"`path` is not a folder: .*gone"):
            VideoDataset(config(tmp_path / "gone"))
        with pytest.raises(ValueError, match=r"`path` \(=.*\) holds no video files"):
            VideoDataset(config(tmp_path))
        with pytest.raises(ValueError, match="holds no folders of images"):
            VideoDataset(config(tmp_path, kind="frames"))
        with pytest.raises(ValueError, match="holds no class folders"):
            VideoDataset(config(tmp_path, classes=True))

    def test_videos_outside_the_class_folders_are_named(self, class_folders: Path, tmp_path: Path):
        root = shutil.copytree(class_folders, tmp_path / "copy")
        shutil.copy(root / "ants" / "0.mp4", root / "loose.mp4")
        with pytest.raises(ValueError, match=r"1 files lie outside .*loose\.mp4"):
            VideoDataset(config(root, classes=True))

    def test_hidden_and_other_files_are_ignored(self, flat: Path):
        (flat / "deep" / "._clip_0.mp4").write_bytes(b"resource fork")
        (flat / "deep" / "notes.txt").write_text("no video")
        (flat / ".cache").mkdir()
        shutil.copy(flat / "deep" / "clip_0.mp4", flat / ".cache")
        assert [s.path.name for s in VideoDataset(config(flat)).sources] == [
            "clip_0.mp4",
            "clip_1.mp4",
            "clip_2.mp4",
        ]

    def test_links_are_followed_and_circles_end(self, flat: Path, tmp_path: Path):
        root = tmp_path / "linked"
        root.mkdir()
        (root / "data").symlink_to(flat)
        (flat / "up").symlink_to(flat)
        assert len(VideoDataset(config(root))) == 3

    def test_natural_order(self):
        names = ["f10", "f2", "f1a", "f1", "g", "f01"]
        assert sorted(names, key=natural_key) == ["f1", "f01", "f1a", "f2", "f10", "g"]


class TestFrameFolders:
    def test_natural_order_and_depth(
        self, tmp_path: Path, write_frames: Callable[[Path, int], Path]
    ):
        write_frames(tmp_path / "a" / "one", 14)
        write_frames(tmp_path / "b", 14)
        (tmp_path / "a" / "one" / ".DS_Store").write_bytes(b"x")
        (tmp_path / "a" / "one" / "readme.txt").write_text("x")
        data = VideoDataset(config(tmp_path, kind="frames", frame_interval=3), augment=False)
        assert len(data) == 2
        for index in range(2):
            assert numbers(data.item(index, rng())["video"]) == [2, 5, 8, 11]

    def test_classes(self, tmp_path: Path, write_frames: Callable[[Path, int], Path]):
        for name in ("x/v1", "x/v2", "y/v1"):
            write_frames(tmp_path / name, 7)
        data = VideoDataset(config(tmp_path, kind="frames", classes=True))
        assert data.labels.tolist() == [0, 0, 1]

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
    def test_every_colour_mode_becomes_rgb(self, tmp_path: Path, mode: str):
        suffix = "jpg" if mode == "CMYK" else "png"
        for number in range(7):
            image = Image.fromarray(numbered_frame(number)).convert(mode)
            image.save(tmp_path / f"{number}.{suffix}")
        data = VideoDataset(config(tmp_path, kind="frames"))
        assert numbers(data.item(0, rng())["video"]) == [0, 2, 4, 6]

    def test_broken_and_misshaped_images_are_named(
        self,
        tmp_path: Path,
        write_frames: Callable[[Path, int], Path],
        caplog: pytest.LogCaptureFixture,
    ):
        for name in ("good", "torn", "mixed"):
            write_frames(tmp_path / name, 7)
        torn = tmp_path / "torn" / "frame_2.png"
        torn.write_bytes(torn.read_bytes()[:60])
        Image.new("RGB", (SIDE, 10)).save(tmp_path / "mixed" / "frame_4.png")
        data = VideoDataset(config(tmp_path, kind="frames"))
        for index in range(3):
            assert numbers(data.item(index, rng())["video"]) == [0, 2, 4, 6]
        text = caplog.text
        assert re.search(r"torn/frame_2.png: cannot be read as an image", text)
        assert re.search(r"mixed/frame_4.png: is 64x10, but another frame .* is 64x64", text)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("kind", "films", "must be one of ['videos', 'frames', 'images'], got 'films'"),
        ("crop", "random", "must be one of"),
        ("spacing", "even", "must be one of ['stride', 'linspace'], got 'even'"),
        ("num_frames", 0, "must be an integer of at least 1, got 0"),
        ("frame_interval", 0, "must be an integer of at least 1, got 0"),
        ("image_size", -8, "must be an integer of at least 1, got -8"),
        ("num_joint_images", -1, "must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_settings_are_named(name: str, value: Any, rule: str):
    with pytest.raises(ValueError, match=re.escape(f"`{name}` {rule}")):
        from_dict(DataConfig, {"path": "x", name: value})


def test_path_is_required():
    with pytest.raises(ValueError, match="path"):
        from_dict(DataConfig, {"classes": True})


def test_an_index_out_of_range_is_named(class_folders: Path):
    data = VideoDataset(config(class_folders))
    with pytest.raises(IndexError, match=re.escape("`index` must be in 0..4, got 5")):
        data.item(5, rng())
