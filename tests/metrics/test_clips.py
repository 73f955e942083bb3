"""Which clips a rule takes, and their frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latte_ms.data.video_file import DecodeError
from latte_ms.media import save_video, write_mp4
from latte_ms.metrics.clips import ClipRule, Clips
from latte_ms.metrics.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos of 20 to 31 frames, 32 x 48, each of one grey level; its number in its name."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(12):
        frames = np.full((20 + number, 32, 48, 3), 20 * number, np.uint8)
        write_mp4(root / f"{number:02d}.mp4", frames, 8.0)
    return root


def names(clips: Clips) -> list[str]:
    return [clip.name for clip in clips.clips]


def test_all_videos_in_their_order(folder: Path) -> None:
    clips = Clips(folder, "auto", ClipRule())
    assert names(clips) == [f"{number:02d}.mp4" for number in range(12)]
    assert all(clip.frames == tuple(range(16)) for clip in clips.clips)
    frames = Clips(folder, "videos", ClipRule(image_size=0)).read(11)
    assert frames.shape == (16, 32, 48, 3)
    assert np.abs(frames.astype(int) - 220).max() <= 3


def test_videos_are_drawn_without_replacement(folder: Path) -> None:
    rule = ClipRule(max_videos=5)
    drawn = names(Clips(folder, "auto", rule, seed=1))
    assert len(set(drawn)) == 5
    assert drawn == names(Clips(folder, "auto", rule, seed=1))
    assert drawn != names(Clips(folder, "auto", rule, seed=2))
    assert set(names(Clips(folder, "auto", ClipRule(max_videos=99)))) == {
        f"{number:02d}.mp4" for number in range(12)
    }


def test_short_videos_are_left_out_and_starts_are_drawn(folder: Path) -> None:
    clips = Clips(folder, "auto", ClipRule(start="random", interval=2, num_frames=10))
    assert len(clips) == 12
    assert clips.too_short == 0
    starts = {clip.frames[0] for clip in clips.clips}
    assert len(starts) > 3
    for clip in clips.clips:
        assert len(clip.frames) == 10
        assert set(np.diff(clip.frames)) == {2}
        assert clip.frames[-1] < clip.source.num_frames()
    longer = Clips(folder, "auto", ClipRule(start="random", min_frames=25))
    assert (len(longer), longer.too_short) == (7, 5)


def test_the_last_start_is_possible(folder: Path) -> None:
    rule = ClipRule(start="random", num_frames=20)
    starts = {Clips(folder, "auto", rule, seed).clips[1].frames[0] for seed in range(20)}
    assert starts == {0, 1}, "a video of 21 frames has two clips of 20"


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (64, 64)])
@pytest.mark.parametrize("resize", ["centre_lanczos", "short_side_bilinear"])
def test_frames_are_brought_to_one_size(tmp_path: Path, size: tuple[int, int], resize: str) -> None:
    """The middle of the image stays in the middle: a white square on black."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4] = 255
    (tmp_path / "clip").mkdir()
    for number in range(3):
        Image.fromarray(image).save(tmp_path / "clip" / f"{number}.png")
    rule = ClipRule(num_frames=3, image_size=96, resize=resize)  # type: ignore[arg-type]
    frames = Clips(tmp_path, "auto", rule).read(0)
    assert frames.shape == (3, 96, 96, 3)
    assert frames.dtype == np.uint8
    scale = 96 / min(size)
    bright = np.argwhere(frames[0, ..., 0] > 127)
    np.testing.assert_allclose(bright.mean(0), 47.5, atol=0.6)
    assert np.sqrt(len(bright)) == pytest.approx(8 * scale, abs=1.5)


def test_fingerprints_name_what_a_figure_depends_on(folder: Path, tmp_path: Path) -> None:
    plain = Clips(folder, "auto", ClipRule()).fingerprint()
    assert plain == Clips(str(folder), "videos", ClipRule(), seed=7).fingerprint()
    for rule in (ClipRule(num_frames=15), ClipRule(image_size=128), ClipRule(max_videos=3)):
        assert Clips(folder, "auto", rule).fingerprint() != plain
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in folder.glob("*.mp4"):
        (copies / path.name).write_bytes(path.read_bytes())
    assert Clips(copies, "auto", ClipRule()).fingerprint() == plain, "wherever the set lies"
    write_mp4(
        copies / "00.mp4", np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8), 8.0
    )
    assert Clips(copies, "auto", ClipRule()).fingerprint() != plain


def test_files_of_the_same_names_and_sizes_are_told_apart(tmp_path: Path) -> None:
    """Uncompressed images have equal sizes whatever they show."""
    rng, marks = np.random.default_rng(0), {}
    for name in ("a", "b", "c"):
        (tmp_path / name / "video").mkdir(parents=True)
    for number in range(4):
        image = rng.integers(0, 256, (80, 80, 3), np.uint8)
        other = image if number != 1 else 255 - image
        for name, pixels in (("a", image), ("b", image), ("c", other)):
            Image.fromarray(pixels).save(tmp_path / name / "video" / f"{number}.bmp")
    for name in ("a", "b", "c"):
        marks[name] = Clips(tmp_path / name, "auto", ClipRule(num_frames=4)).fingerprint()
    assert marks["a"] == marks["b"]
    assert marks["a"] != marks["c"]


def test_a_gif_beside_a_video_is_the_same_video(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    save_video(tmp_path / "a" / "both", frames, ["mp4", "gif"], 8.0)
    save_video(tmp_path / "a" / "alone", frames, ["gif"], 8.0)
    for kind in ("auto", "videos"):
        assert names(Clips(tmp_path, kind, ClipRule())) == ["a/alone.gif", "a/both.mp4"]


def test_impossible_sets_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`root` is not a folder"):
        Clips(tmp_path / "missing", "auto", ClipRule())
    with pytest.raises(ValueError, match=r"`root` \(=.*\) holds no"):
        Clips(tmp_path, "auto", ClipRule())
    message = r"`real` \(=.*\) must hold videos of at least 32 frames; all of its 12 have fewer"
    with pytest.raises(ValueError, match=message):
        Clips(folder, "auto", ClipRule(num_frames=32), argument="real")
    with pytest.raises(ValueError, match="`kind` must be"):
        Clips(folder, "images", ClipRule())
    with pytest.raises(ValueError, match="`interval` must be an integer of at least 1, got 0"):
        ClipRule(interval=0)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"broken.mp4"):
        Clips(tmp_path, "auto", ClipRule())


def test_protocols_are_those_of_the_papers() -> None:
    latte, stylegan, cd = (PROTOCOLS[name] for name in ("latte", "stylegan_v", "cd_fvd"))
    assert (latte.real.interval, latte.real.frames_needed, latte.real.start) == (3, 48, "random")
    assert (stylegan.real.interval, stylegan.real.frames_needed) == (1, 16)
    assert latte.generated == stylegan.generated
    assert latte.generated.start == "first"
    assert (latte.real.max_videos, latte.generated.max_videos) == (2048, 2048)
    assert (cd.real.max_videos, cd.generated.max_videos) == (0, 2048)
