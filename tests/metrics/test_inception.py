"""Inception v3 against PyTorch with random weights, from the published file's names on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latte_ms.media import write_mp4
from latte_ms.metrics.clips import ClipRule
from latte_ms.metrics.detectors import InceptionDetector, resized
from latte_ms.metrics.frechet import Gaussian, frechet_distance
from latte_ms.metrics.image_scores import inception_score, kernel_distance
from latte_ms.metrics.images import image_scores
from latte_ms.metrics.packages import weights_folder
from latte_ms.metrics.protocols import ClipProtocol
from scripts import fetch_detectors
from tests.metrics.torch_inception import Inception, random_inception


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inception, Path]:
    network = random_inception()
    file = tmp_path_factory.mktemp("published") / "pt_inception.pth"
    torch.save(network.state_dict(), file)
    return network, file


@pytest.fixture(scope="module")
def detector(
    published: tuple[Inception, Path], tmp_path_factory: pytest.TempPathFactory
) -> InceptionDetector:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATTE_MS_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert fetch_detectors.main(["inception", "--file", str(published[1])]) == 0
        assert (weights_folder() / "inception-2015-12-05.safetensors").is_file()
        return InceptionDetector(resize="half_pixel")


def test_the_network_is_torchs(
    published: tuple[Inception, Path], detector: InceptionDetector
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3), np.uint8)
    found = detector(frames)
    pixels = resized(frames, 299).transpose(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = published[0](torch.from_numpy(pixels.astype(np.float32)))
    for ours, theirs in zip((found[:, :2048], found[:, 2048:]), expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * theirs.abs().max()


def test_scores_of_folders(detector: InceptionDetector, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("real", "generated"):
        for number in range(3):
            frames = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
            write_mp4(tmp_path / name / f"{number}.mp4", frames, 8.0)
    rule = ClipRule(num_frames=2, image_size=0)
    found = image_scores(
        tmp_path / "real",
        tmp_path / "generated",
        ["fid", "kid"],
        protocol=ClipProtocol(rule, rule),
        detector=detector,
        cache=tmp_path / "cache",
    )
    assert (found.num_real, found.num_generated) == (6, 6)
    assert found.inception_score is None
    rows = [np.load(path)[:, :2048] for path in (tmp_path / "cache").glob("*.npy")]
    expected = frechet_distance(Gaussian.of(rows[0]), Gaussian.of(rows[1]))
    assert found.fid == pytest.approx(expected, rel=1e-6), "in either order"
    name = detector.identity["weights"]
    for line, metric in zip(str(found).splitlines(), ("FID", "KID"), strict=True):
        assert line.startswith(metric)
        assert line.endswith(f"6 generated and 6 real images, Inception v3, {name}, half_pixel")
    record = json.loads(json.dumps(found.record()))
    assert record["protocol"]["real"]["num_frames"] == 2
    assert record["seed"] == 0
    with pytest.raises(ValueError, match="`metrics` must be"):
        image_scores(tmp_path / "real", tmp_path / "generated", ["fvd"])


def test_the_kernel_distance_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((7, 5)) + 0.3

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 5 + 1) ** 3)

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j])
    between = np.mean([kernel(x[i], y[j]) for i, j in pairs])
    found = kernel_distance(x, y, num_subsets=3)
    assert found.mean == pytest.approx(within - 2 * between, rel=1e-10)
    assert found.deviation == pytest.approx(0.0, abs=1e-12), "each subset is the whole set"
    drawn = kernel_distance(x, y, num_subsets=50, subset_size=4)
    assert drawn.deviation > 0
    assert drawn.mean == pytest.approx(found.mean, abs=3 * drawn.deviation)
    with pytest.raises(ValueError, match=r"`generated` must be \(N, 5\)"):
        kernel_distance(x, y[:, :4])


def test_the_inception_score_is_that_of_its_definition() -> None:
    certain = np.tile(np.eye(5), (20, 1))
    assert inception_score(certain, num_splits=1).mean == pytest.approx(5.0)
    assert inception_score(np.full((40, 8), 1 / 8)).mean == pytest.approx(1.0)
    rows = np.random.default_rng(3).dirichlet(np.ones(6), 50)
    shuffled = rows[np.random.RandomState(42).permutation(50)]
    scores = []
    for part in np.split(shuffled, 10):
        divergence = (part * np.log(part / part.mean(0))).sum(1)
        scores.append(np.exp(divergence.mean()))
    found = inception_score(rows)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-10)
    assert found.deviation == pytest.approx(np.std(scores), rel=1e-9)
    with pytest.raises(ValueError, match="rows that add up to 1"):
        inception_score(2 * rows)
    with pytest.raises(ValueError, match="at least `num_splits`"):
        inception_score(rows[:5])
