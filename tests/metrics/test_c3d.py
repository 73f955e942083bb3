"""C3D against PyTorch with random weights, from the published files' names on, and its score."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mindspore import Tensor

from latte_ms import weights
from latte_ms.data.video_file import read_video
from latte_ms.media import write_mp4
from latte_ms.metrics import c3d_files
from latte_ms.metrics.c3d import C3D
from latte_ms.metrics.clips import ClipRule
from latte_ms.metrics.detectors import C3DDetector, c3d_pixels
from latte_ms.metrics.image_scores import inception_score, softmax
from latte_ms.metrics.packages import weights_folder
from latte_ms.metrics.protocols import ClipProtocol
from latte_ms.metrics.video_inception import video_inception_score
from latte_ms.weights import WeightError
from scripts import calc_metrics, fetch_detectors
from tests.metrics import torch_c3d

SMALL = {"channels": 4, "hidden_size": 32}
SHORT = ClipProtocol(ClipRule(image_size=0), ClipRule(image_size=0))


def mean_clip(folder: Path) -> tuple[Path, torch.Tensor]:
    """A file such as mean2.npz, and the part of it that the network subtracts, BGR."""
    mean = np.random.default_rng(0).uniform(60, 140, (1, 3, 16, 128, 171)).astype(np.float32)
    np.savez(folder / "mean2.npz", mean=mean)
    return folder / "mean2.npz", torch.from_numpy(mean[0, :, :, 8:120, 8:120].copy())


def chainer_file(network: torch.nn.Module, path: Path) -> Path:
    leaves = {"weight": "W", "bias": "b"}
    arrays = {}
    for name, tensor in network.state_dict().items():
        layer, leaf = name.split(".")
        arrays[f"{layer}/{leaves[leaf]}"] = tensor.numpy()
    np.savez(path, **arrays)
    return path


def torch_file(network: torch.nn.Module, path: Path) -> Path:
    """With the names of common ports, and a buffer beside them."""
    names = {"conv1a": "conv1", "conv2a": "conv2"}
    state = {}
    for name, tensor in network.state_dict().items():
        layer, leaf = name.split(".")
        state[f"net.{names.get(layer, layer)}.{leaf}"] = tensor
    torch.save(state | {"net.offset": torch.zeros(3, 16, 112, 112)}, path)
    return path


def torchscript_file(network: torch.nn.Module, path: Path) -> Path:
    frames, mean = torch.zeros(16, 112, 112, 3, dtype=torch.uint8), torch.zeros(3, 16, 112, 112)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        torch.jit.trace(network, (frames, mean), check_trace=False).save(path)
    return path


def clip(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (16, 90, 120, 3), np.uint8)


@pytest.mark.parametrize("clips", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_network_is_torchs(clips: int, tmp_path: Path) -> None:
    reference = torch_c3d.random_c3d(**SMALL)
    mean_file, mean = mean_clip(tmp_path)
    arrays = c3d_files.read_c3d(chainer_file(reference, tmp_path / "c3d.npz"), mean_file)
    network = C3D(**SMALL)
    network.set_train(False)
    weights.write(tmp_path / "c3d.safetensors", {"": weights.from_arrays(arrays)})
    weights.load(network, tmp_path / "c3d.safetensors")
    frames = [clip(np.random.default_rng(seed)) for seed in range(clips)]
    found = network(Tensor(np.stack([c3d_pixels(one, 112) for one in frames]))).asnumpy()
    with torch.no_grad():
        rows = [reference(torch.from_numpy(one), mean) for one in frames]
    expected = torch.cat(rows).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("write", [torch_file, torchscript_file])
def test_torch_files_hold_the_same_network(
    write: Callable[[torch.nn.Module, Path], Path], tmp_path: Path
) -> None:
    reference = torch_c3d.random_c3d(**SMALL)
    mean, _ = mean_clip(tmp_path)
    expected = c3d_files.read_c3d(chainer_file(reference, tmp_path / "c3d.npz"), mean)
    found = c3d_files.read_c3d(write(reference, tmp_path / "c3d.pt"), mean)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.slow
def test_the_detector_is_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the published size, from the published file's names on."""
    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path / "cache"))
    reference = torch_c3d.random_c3d()
    mean_file, mean = mean_clip(tmp_path)
    file = chainer_file(reference, tmp_path / "conv3d_deepnetA_ucf.npz")
    assert fetch_detectors.main(["c3d", "--file", str(file), "--mean", str(mean_file)]) == 0
    detector = C3DDetector()
    assert detector.identity["weights"].startswith("c3d-ucf101.safetensors, SHA-256 ")
    frames = clip(np.random.default_rng(3))
    with torch.no_grad():
        expected = reference(torch.from_numpy(frames), mean).numpy()
    assert np.abs(detector(frames) - expected).max() <= 1e-5 * np.abs(expected).max()
    with pytest.raises(ValueError, match="`num_frames` must be 16 for C3D, got 8"):
        detector(frames[:8])
    videos, output = tmp_path / "videos", tmp_path / "figures.json"
    for number in range(10):
        write_mp4(videos / f"{number}.mp4", clip(np.random.default_rng(number))[:, :32, :32], 8.0)
    places = [f"generated={videos}", f"cache={tmp_path / 'kept'}", f"output={output}"]
    calc_metrics.main([*places, "metrics=[video_is]"])
    (kept,) = (tmp_path / "kept").glob("*.npy")
    expected = inception_score(softmax(np.load(kept)))
    score = json.loads(output.read_text())["video_is"]["score"]
    assert score == {"mean": expected.mean, "deviation": expected.deviation}


class Logits:
    """A detector without a network: logits of 4 classes from the mean colours of a clip."""

    num_features = 4
    identity = {"network": "colours", "weights": "none"}  # noqa: RUF012

    def vectors_per_clip(self, num_frames: int) -> int:
        return 1

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        colours = frames.astype(np.float32).mean((0, 1, 2))
        return np.append(colours, 100.0).astype(np.float32)[None] / 16.0


def test_the_score_is_that_of_the_classes(tmp_path: Path) -> None:
    rng, videos = np.random.default_rng(1), tmp_path / "videos"
    for number in range(23):
        frames = np.broadcast_to(rng.integers(0, 256, (1, 1, 1, 3)), (16, 32, 32, 3))
        write_mp4(videos / f"{number:02d}.mp4", frames.astype(np.uint8), 8.0)
    found = video_inception_score(
        videos, protocol=SHORT, detector=Logits(), cache=tmp_path / "kept"
    )
    (kept,) = (tmp_path / "kept").glob("*.npy")
    logits = np.concatenate([Logits()(read_video(p)) for p in sorted(videos.iterdir())])
    np.testing.assert_array_equal(np.load(kept), logits)
    assert found.score == inception_score(softmax(logits))
    assert (found.num_clips, found.rule, found.seed) == (23, SHORT.generated, 0)
    assert "23 generated clips in 10 splits, colours, none" in str(found)


def test_too_few_videos_are_refused(tmp_path: Path) -> None:
    frames = np.zeros((16, 32, 32, 3), np.uint8)
    for number in range(9):
        write_mp4(tmp_path / f"{number}.mp4", frames, 8.0)
    with pytest.raises(ValueError, match=r"`generated` .* at least 10 videos .* got 9"):
        video_inception_score(tmp_path, protocol=SHORT, detector=Logits())


def save_damaged(folder: Path) -> None:
    """Compressed files with damaged data, an unknown compression, and a mark of encryption."""
    np.savez_compressed(folder / "whole.npz", mean=np.arange(1000.0))
    whole = (folder / "whole.npz").read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for name, place, value in (
        ("inflated", directory // 2, b"\xff\xff\xff\xff"),
        ("unknown", directory + 10, b"\x63\x00"),
        ("locked", directory + 8, b"\x01\x00"),
    ):
        changed = whole[:place] + value + whole[place + len(value) :]
        (folder / f"{name}.npz").write_bytes(changed)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    mean, _ = mean_clip(tmp_path)
    network = torch_c3d.random_c3d(**SMALL)
    state = network.state_dict()
    torch.save({n: t for n, t in state.items() if not n.startswith("fc7")}, tmp_path / "part.pt")
    with pytest.raises(WeightError, match=r"part.pt must hold .* it lacks fc7.weight"):
        c3d_files.read_c3d(tmp_path / "part.pt", mean)
    torch.save(state | {"other.fc7.weight": state["fc7.weight"]}, tmp_path / "two.pt")
    with pytest.raises(WeightError, match=r"must hold fc7.weight once"):
        c3d_files.read_c3d(tmp_path / "two.pt", mean)
    np.savez(tmp_path / "small.npz", mean=np.zeros((3, 16, 112, 112)))
    (tmp_path / "damaged.npz").write_bytes(mean.read_bytes()[:1000])
    save_damaged(tmp_path)
    np.savez(tmp_path / "objects.npz", mean=np.array([{}]))
    np.save(tmp_path / "single.npy", np.zeros(3))
    damaged = ("damaged.npz", "inflated.npz", "unknown.npz", "locked.npz")
    for name in (*damaged, "small.npz", "objects.npz", "single.npy", "none.npz"):
        with pytest.raises(WeightError, match=name):
            c3d_files.read_mean(tmp_path / name)


def test_the_command_refuses_a_file_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path / "cache"))
    mean, _ = mean_clip(tmp_path)
    file = chainer_file(torch_c3d.random_c3d(**SMALL), tmp_path / "small.npz")
    assert fetch_detectors.main(["c3d", "--file", str(file), "--mean", str(mean)]) == 1
    assert f"`--file` (={file}) does not fit the network" in capsys.readouterr().err
    assert not weights_folder().exists()
    with pytest.raises(FileNotFoundError, match=r"fetch_detectors.py c3d --file FILE --mean"):
        C3DDetector()
