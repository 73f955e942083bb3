"""Distances of pairs of videos against PyTorch and scikit-image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch.nn import functional

from latte_ms import weights
from latte_ms.media import write_mp4
from latte_ms.metrics.comparison import compare
from latte_ms.metrics.lpips import LEAST_SIZE, LPIPS, Backbone
from latte_ms.metrics.pairs import PerceptualDistance, psnr, ssim

# (convolution stride, padding, pooling before it, tapped)
ALEXNET = [(4, 2, 0, 1), (1, 2, 3, 1), (1, 1, 3, 1), (1, 1, 0, 1), (1, 1, 0, 1)]
VGG16 = [
    (1, 1, 2 if index in (2, 4, 7, 10) else 0, index in (1, 3, 6, 9, 12)) for index in range(13)
]


def torch_lpips(
    first: np.ndarray, second: np.ndarray, arrays: dict[str, np.ndarray], backbone: Backbone
) -> np.ndarray:
    """As the package lpips defines it, for images (N, 3, H, W) in [-1, 1]."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    pair = [(torch.from_numpy(images) - shift) / scale for images in (first, second)]
    total, tap = torch.zeros(len(first)), 0
    for index, row in enumerate(ALEXNET if backbone == "alexnet" else VGG16):
        stride, padding, pool, tapped = row
        weight, bias = (
            torch.from_numpy(arrays[f"convolutions.{index}.{leaf}"]) for leaf in ("weight", "bias")
        )
        if pool:
            pair = [functional.max_pool2d(x, pool, 2) for x in pair]
        pair = [functional.relu(functional.conv2d(x, weight, bias, stride, padding)) for x in pair]
        if tapped:
            normal = [x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for x in pair]
            head = torch.from_numpy(arrays[f"heads.{tap}.weight"])
            total += functional.conv2d((normal[0] - normal[1]) ** 2, head).mean((1, 2, 3))
            tap += 1
    return total.numpy()


def random_arrays(network: LPIPS, rng: np.random.Generator) -> dict[str, np.ndarray]:
    arrays = {}
    for parameter in network.get_parameters():
        shape = parameter.shape
        if parameter.name.startswith("heads"):
            values = rng.random(shape) / shape[1]
        else:
            scale = np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            values = scale * rng.standard_normal(shape)
        arrays[parameter.name] = values.astype(np.float32)
    return arrays


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("alexnet", (65, 64)),
        ("vgg16", (33, 48)),
        pytest.param("alexnet", (31, 31), marks=pytest.mark.slow),
        pytest.param("vgg16", (16, 16), marks=pytest.mark.slow),
    ],
)
def test_lpips_is_that_of_torch(backbone: Backbone, size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = random_arrays(LPIPS(backbone), rng)
    weights.write(tmp_path / "w.safetensors", {"": weights.from_arrays(arrays)})
    measure = PerceptualDistance(backbone, tmp_path / "w.safetensors")
    videos = rng.integers(0, 256, (2, 3, *size, 3), np.uint8)
    pixels = [(v.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32) for v in videos]
    expected = torch_lpips(*pixels, arrays, backbone)
    assert measure(*videos) == pytest.approx(expected.mean(), rel=1e-5)
    assert measure(videos[0], videos[0]) == 0.0
    small = np.zeros((1, LEAST_SIZE[backbone] - 1, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=f"at least {LEAST_SIZE[backbone]} x"):
        measure(small, small)


def videos() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (3, 24, 40, 3), np.uint8)
    return first, np.clip(first + rng.normal(0, 12, first.shape), 0, 255).astype(np.uint8)


def test_psnr_is_the_mean_over_frames() -> None:
    first, second = videos()
    expected = np.mean([peak_signal_noise_ratio(*pair) for pair in zip(first, second, strict=True)])
    assert psnr(first, second) == pytest.approx(expected, rel=1e-12)
    assert psnr(first, first) == np.inf


def test_ssim_is_that_of_its_paper() -> None:
    """Wang et al. 2004, in PyTorch: an 11 x 11 Gaussian window, valid positions alone."""
    first, second = videos()
    axis = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = torch.outer(window, window) / window.sum() ** 2
    kernel = window.expand(3, 1, 11, 11)

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, kernel, groups=3)

    x, y = (torch.from_numpy(v.transpose(0, 3, 1, 2).astype(np.float64)) for v in (first, second))
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    both = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim(first, second) == pytest.approx(float(similarity.mean()), rel=1e-5)
    assert ssim(first, first) == pytest.approx(1.0)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_what_is_no_pair_of_videos_is_refused(measure: object) -> None:
    assert callable(measure)
    first, _ = videos()
    with pytest.raises(ValueError, match=r"`second` must have the shape \(3, 24, 40, 3\)"):
        measure(first, first[:2])
    with pytest.raises(ValueError, match=r"`first` must be \(F, H, W, 3\) uint8, got .* float64"):
        measure(first / 255, first)
    if measure is ssim:
        with pytest.raises(ValueError, match="at least 11 x 11"):
            measure(first[:, :10], first[:, :10])


def test_folders_are_compared_by_name(tmp_path: Path) -> None:
    first, second = (np.repeat(np.repeat(v, 2, 1), 2, 2) for v in videos())
    for folder, video in (("a", first), ("b", second)):
        for name in ("x/one", "two"):
            write_mp4(
                tmp_path / folder / f"{name}.mp4", video[:, :, : 80 if name == "two" else 64], 8.0
            )
    found = compare(tmp_path / "a", tmp_path / "b", {"psnr": psnr, "ssim": ssim})
    assert set(found) == {"psnr", "ssim"}
    assert list(found["psnr"]) == ["two", "x/one"]
    assert 15 < found["psnr"]["two"] < 40
    same = compare(tmp_path / "a", tmp_path / "a", {"psnr": psnr})
    assert set(same["psnr"].values()) == {np.inf}
    write_mp4(tmp_path / "b" / "two.mp4", second[:2], 8.0)
    with pytest.raises(ValueError, match=r"b/two.mp4 must be of \(3, 48, 80, 3\) .* got \(2, "):
        compare(tmp_path / "a", tmp_path / "b", {"psnr": psnr})
    (tmp_path / "b" / "two.mp4").unlink()
    with pytest.raises(ValueError, match="videos of the same names; 1 are in one of them"):
        compare(tmp_path / "a", tmp_path / "b", {"psnr": psnr})
