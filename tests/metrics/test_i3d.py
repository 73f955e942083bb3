"""I3D against PyTorch's 3-D convolutions, with random weights or published ones."""

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.metrics.detectors import I3DDetector, resized
from latte_ms.metrics.i3d import I3D
from latte_ms.metrics.packages import PACKAGES, weights_folder
from tests.metrics import torch_i3d


@pytest.fixture(scope="module")
def network() -> I3D:
    """With weights under which activations keep their size."""
    rng = np.random.default_rng(0)
    cell = I3D()
    cell.set_train(False)
    for parameter in cell.get_parameters():
        shape = parameter.shape
        scale = np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        parameter.set_data(Tensor((scale * rng.standard_normal(shape)).astype(np.float32)))
    return cell


def arrays_of(network: I3D) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


@pytest.mark.parametrize("frames", [16, pytest.param(9, marks=pytest.mark.slow)])
def test_the_network_is_that_of_3d_convolutions(network: I3D, frames: int) -> None:
    videos = np.random.default_rng(frames).uniform(-1, 1, (1, frames, 3, 224, 224))
    videos = videos.astype(np.float32)
    expected = torch_i3d.logits(videos, arrays_of(network))
    found = network(Tensor(videos)).asnumpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_frames_are_resized_as_torch_resizes() -> None:
    import torch

    frames = np.random.default_rng(1).integers(0, 256, (2, 60, 80, 3), np.uint8)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(
        tensor, (224, 224), mode="bilinear", align_corners=False
    )
    found = resized(frames, 224)
    assert np.abs(found - expected.permute(0, 2, 3, 1).numpy()).max() <= 1e-5 * 255


@pytest.mark.extended
@pytest.mark.skipif(
    not (weights_folder() / PACKAGES["i3d"].file).is_file(), reason="weights are not fetched"
)
@pytest.mark.parametrize(("frames", "distance"), [(16, 152.902), (30, 151.392)])
def test_published_distances_of_black_and_white(frames: int, distance: float) -> None:
    detector = I3DDetector()
    black, white = (
        detector(np.full((frames, 224, 224, 3), value, np.uint8)).astype(np.float64)
        for value in (0, 255)
    )
    assert ((black - white) ** 2).sum() == pytest.approx(distance, abs=0.01)
