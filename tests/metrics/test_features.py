"""Features are computed once, whoever computes them and however often it is interrupted."""

import io
from pathlib import Path

import numpy as np
import pytest

from latte_ms.media import write_mp4
from latte_ms.metrics import features
from latte_ms.metrics.clips import ClipRule, Clips
from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import Rank


class Means:
    """A detector without a network: mean and deviation of each channel."""

    num_features = 6
    identity = {"network": "means", "weights": "none"}  # noqa: RUF012

    def __init__(self, fails_at: int = 1 << 30, per_clip: int = 1) -> None:
        self.calls, self.fails_at, self.per_clip = 0, fails_at, per_clip

    def vectors_per_clip(self, num_frames: int) -> int:
        if num_frames < 2:
            raise ValueError(f"`num_frames` must be at least 2, got {num_frames}.")
        return self.per_clip

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls > self.fails_at:
            raise RuntimeError("interrupted")
        pixels = frames.astype(np.float32)
        row = np.concatenate([pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))])
        return np.stack([row + number for number in range(self.per_clip)])


class Together(Communicator):
    """Rank `index` of `count` where the ranks run one after another: none waits for another."""

    def __init__(self, index: int, count: int) -> None:
        super().__init__(Rank())
        self.rank = Rank(index, count)

    def broadcast_from_first(self, number: int) -> int:
        return 0

    def wait(self) -> None:
        return


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(40):
        frames = rng.integers(0, 256, (1, 1, 1, 3)) + rng.integers(-9, 9, (3, 32, 32, 3))
        write_mp4(root / f"{number:02d}.mp4", np.clip(frames, 0, 255).astype(np.uint8), 8.0)
    return Clips(root, "videos", ClipRule(num_frames=3, image_size=0))


def collect(clips: Clips, detector: Means, folder: Path) -> np.ndarray:
    return features.collect(clips, detector, folder, Communicator(Rank()))


def test_features_are_kept(clips: Clips, tmp_path: Path) -> None:
    detector = Means()
    first = collect(clips, detector, tmp_path)
    assert first.shape == (40, 6)
    np.testing.assert_array_equal(first[7], Means()(clips.read(7))[0])
    assert detector.calls == 40
    np.testing.assert_array_equal(collect(clips, detector, tmp_path), first)
    assert detector.calls == 40
    assert len(list(tmp_path.iterdir())) == 1


def test_a_clip_may_have_several_rows(clips: Clips, tmp_path: Path) -> None:
    found = collect(clips, Means(per_clip=3), tmp_path)
    assert found.shape == (120, 6)
    np.testing.assert_array_equal(found[21:24], Means(per_clip=3)(clips.read(7)))
    np.testing.assert_array_equal(collect(clips, Means(per_clip=3), tmp_path), found)


def test_an_interrupted_run_goes_on(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="interrupted"):
        collect(clips, Means(fails_at=35), tmp_path)
    detector = Means()
    found = collect(clips, detector, tmp_path)
    assert detector.calls == 8, "two parts of 16 were there"
    np.testing.assert_array_equal(found, collect(clips, Means(), tmp_path / "whole"))


def test_ranks_share_the_work(clips: Clips, tmp_path: Path) -> None:
    calls = []
    for index in (1, 0):  # the first rank joins the parts
        detector = Means()
        if index == 1:
            with pytest.raises(FileNotFoundError, match="all ranks see"):
                features.collect(clips, detector, tmp_path, Together(index, 2))
        else:
            found = features.collect(clips, detector, tmp_path, Together(index, 2))
        calls.append(detector.calls)
    assert calls == [16, 24]
    np.testing.assert_array_equal(found, collect(clips, Means(), tmp_path / "one"))


def test_damaged_files_are_computed_again(clips: Clips, tmp_path: Path) -> None:
    expected = collect(clips, Means(), tmp_path)
    (whole,) = tmp_path.iterdir()
    intact = whole.read_bytes()
    end = intact.index(b"}")  # of the header
    no_header = intact[:end] + b"\n" + intact[end + 1 :]
    others = (np.full((40, 6), np.nan, np.float32), np.zeros((39, 6), np.float32), np.eye(40, 6))
    files = [npy(array) for array in others]
    for data in (b"", intact[:-8], b"no array", b"PK\x03\x04" + intact, no_header, *files):
        whole.write_bytes(data)
        detector = Means()
        np.testing.assert_array_equal(collect(clips, detector, tmp_path), expected)
        assert detector.calls == 40
    assert whole.read_bytes() == intact


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_runs_may_share_the_folder(clips: Clips, tmp_path: Path) -> None:
    """Another run joins the parts, and removes them, while this one is at its second."""

    class Overtaken(Means):
        def __call__(self, frames: np.ndarray) -> np.ndarray:
            if self.calls == 20:
                others.append(collect(clips, Means(), tmp_path))
            return super().__call__(frames)

    others: list[np.ndarray] = []
    found = collect(clips, Overtaken(), tmp_path)
    np.testing.assert_array_equal(found, others[0])
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_parts_that_a_killed_run_left_are_removed(clips: Clips, tmp_path: Path) -> None:
    expected = collect(clips, Means(), tmp_path)
    (whole,) = tmp_path.iterdir()
    parts = tmp_path / f"{whole.stem}_parts"
    parts.mkdir()
    np.save(parts / "00000000.npy", expected[:16])
    detector = Means()
    np.testing.assert_array_equal(collect(clips, detector, tmp_path), expected)
    assert detector.calls == 0
    assert list(tmp_path.iterdir()) == [whole]


def test_features_must_be_finite(clips: Clips, tmp_path: Path) -> None:
    class Overflowing(Means):
        def __call__(self, frames: np.ndarray) -> np.ndarray:
            rows = super().__call__(frames)
            return rows / 0.0 if self.calls in (20, 22) else rows

    named = Clips(clips.root, "videos", clips.rule, argument="real")
    message = r"`real` \(=.*\) must be finite; NaN or infinite are those of 19.mp4, 21.mp4\."
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        collect(named, Overflowing(per_clip=2), tmp_path)


def test_another_detector_has_other_features(clips: Clips, tmp_path: Path) -> None:
    collect(clips, Means(), tmp_path)
    other = Means()
    other.identity = {"network": "means", "weights": "others"}
    collect(clips, other, tmp_path)
    assert other.calls == 40
    assert len(list(tmp_path.iterdir())) == 2


def test_clips_that_the_detector_cannot_see_are_refused(clips: Clips, tmp_path: Path) -> None:
    short = Clips(clips.root, "videos", ClipRule(num_frames=1, image_size=0))
    with pytest.raises(ValueError, match="`num_frames` must be at least 2, got 1"):
        collect(short, Means(), tmp_path)
    assert list(tmp_path.iterdir()) == []
