"""FVD of two folders, from the clips to the figure."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from latte_ms.config import load
from latte_ms.media import write_mp4
from latte_ms.metrics.clips import ClipRule
from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.fvd import fvd
from latte_ms.metrics.images import image_scores
from latte_ms.metrics.protocols import PROTOCOLS, ClipProtocol
from latte_ms.metrics.recipe import MetricsRecipe
from tests.metrics.test_features import Means

SHORT = ClipProtocol(ClipRule(num_frames=3, image_size=0), ClipRule(num_frames=3, image_size=0))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """10 videos each, of noise; the second ones are brighter."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for name, brightness in (("real", 90), ("generated", 130)):
        (root / name).mkdir()
        for number in range(10):
            level = brightness + rng.integers(-20, 20, (1, 1, 1, 3))
            frames = np.clip(level + rng.integers(-30, 30, (12, 32, 32, 3)), 0, 255)
            write_mp4(root / name / f"{number}.mp4", frames.astype(np.uint8), 8.0)
    return root / "real", root / "generated"


def test_the_distance_is_that_of_the_features(sets: tuple[Path, Path], tmp_path: Path) -> None:
    found = fvd(*sets, protocol=SHORT, detector=Means(), cache=tmp_path)
    from latte_ms.data.video_file import read_video

    rows = [
        np.array([Means()(read_video(path)[:3])[0] for path in sorted(folder.glob("*.mp4"))])
        for folder in sets
    ]
    expected = frechet_distance(*(Gaussian.of(row) for row in rows))
    assert found.distance.value == pytest.approx(expected, rel=1e-12)
    text = str(found)
    assert "10 generated and 10 real clips of 3 frames, means, none" in text
    assert "With fewer than 2048 clips a distance is larger" in text
    record = json.loads(json.dumps(found.record()))
    assert record["distance"]["value"] == found.distance.value
    assert record["protocol"]["real"]["num_frames"] == 3
    assert set(record["fingerprints"]) == {"real", "generated"}
    unbiased = ClipProtocol(SHORT.real, SHORT.generated, unbiased=True)
    other = fvd(*sets, protocol=unbiased, detector=Means(), cache=tmp_path)
    expected = frechet_distance(*(Gaussian.of(row, unbiased=True) for row in rows))
    assert other.distance.value == pytest.approx(expected, rel=1e-12)


def test_recipes_replace_what_a_protocol_says() -> None:
    def chosen(*keys: str) -> ClipProtocol:
        return load(MetricsRecipe, None, ["real=a", "generated=b", *keys]).chosen_protocol()

    assert chosen() == PROTOCOLS["latte"]
    assert chosen("protocol=cd_fvd") == PROTOCOLS["cd_fvd"]
    other = chosen("num_frames=10", "num_clips=300", "image_size=128")
    for rule in (other.real, other.generated):
        assert (rule.num_frames, rule.max_videos, rule.image_size) == (10, 300, 128)
    assert (other.real.interval, other.real.frames_needed) == (3, 30)
    assert chosen("frame_interval=6").real.frames_needed == 96
    assert chosen("frame_interval=6").generated.interval == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("protocol=fvd", "`protocol` must be"),
        ("kind=images", "`kind` must be"),
        ("num_frames=0", "`num_frames` must be"),
        ("num_clips=-1", "`num_clips` must be"),
        ("detector=''", "`detector` must be"),
        ("seed=-1", "`seed` must be"),
    ],
)
def test_impossible_recipes_are_refused(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(MetricsRecipe, None, ["real=a", "generated=b", key])


def test_impossible_sets_are_refused_before_anything_is_looked_at(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    few = dataclasses.replace(SHORT, generated=ClipRule(num_frames=3, max_videos=7))
    single = dataclasses.replace(SHORT, generated=ClipRule(num_frames=1, max_videos=9))
    detector = Means()
    with pytest.raises(ValueError, match="`generated` must have at least 8 clips, got 7"):
        fvd(*sets, protocol=few, detector=detector, cache=tmp_path)
    with pytest.raises(ValueError, match="`num_frames` must be at least 2, got 1"):
        fvd(*sets, protocol=single, detector=detector, cache=tmp_path)
    with pytest.raises(ValueError, match="`generated` must have at least 10 images for is, got 7"):
        image_scores(*sets, ["fid", "is"], protocol=few, detector=detector, cache=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`generated` is not a folder: .*none"):
        fvd(sets[0], tmp_path / "none", protocol=SHORT, detector=detector, cache=tmp_path)
    assert detector.calls == 0


def test_unknown_protocols_are_named(sets: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"`protocol` must be .*latte"):
        fvd(*sets, protocol="fvd2048", detector=Means())
