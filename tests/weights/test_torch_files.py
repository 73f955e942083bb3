"""`.pt` files: what torch writes is read here, what is written here is read by torch."""

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.transformer.latte import Latte
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.formats import torch_writer
from latte_ms.weights.formats.pickle_reader import read_pickle


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    import torch

    return torch


def raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def torch_bytes(torch: Any, tensor: Any) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def rewrite(path: Path, edit: dict[str, bytes | None], compression: int = 0) -> None:
    """Change or remove (None) members of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**members, **edit}.items():
            if data is not None:
                archive.writestr(name, data)


def test_written_file_is_read_back(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "x.pt"
    weights.write(path, {"model": from_arrays(arrays), "ema": from_arrays({"a": arrays["scalar"]})})
    read = weights.read(path, "model")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert raw(read[name]) == raw(array)
    assert list(weights.read(path, "ema")) == ["a"]


def test_same_weights_make_the_same_file(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    for name in ("a.pt", "b.pt"):
        weights.write(tmp_path / name, {"": from_arrays(arrays)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_tensors_are_aligned_in_the_file(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "x.pt"
    weights.write(path, {"": from_arrays(arrays)})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % 64 == 0, info.filename


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, 2**31, 2**40])
def test_sizes_beyond_32_bits(number: int) -> None:
    assert read_pickle(b"\x80\x02" + torch_writer._integer(number) + b".") == number


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written_here(
    torch: Any, tmp_path: Path, arrays: dict[str, np.ndarray], mmap: bool
) -> None:
    path = tmp_path / "x.pt"
    weights.write(path, {"model": from_arrays(arrays), "ema": from_arrays(arrays)})
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == ["model", "ema"]
    for name, array in arrays.items():
        tensor = loaded["ema"][name]
        assert tuple(tensor.shape) == array.shape
        assert str(tensor.dtype) == f"torch.{array.dtype.name}"
        assert torch_bytes(torch, tensor) == raw(array)
    weights.write(path, {"": from_arrays(arrays)})
    assert list(torch.load(path, weights_only=True)) == list(arrays)


def test_reads_every_kind_of_tensor_that_torch_saves(torch: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = OrderedDict(
        contiguous=base.clone(),
        transposed=base.t(),  # shares its storage with the next ones
        rows=base[2:4],
        columns=base[:, 1:7:2],
        permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
        expanded=torch.randn(3, 1).expand(3, 4),
        parameter=torch.nn.Parameter(torch.randn(3)),
        frozen=torch.nn.Parameter(torch.randn(2, 2), requires_grad=False),
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 4),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        double=torch.randn(5).double(),
        flags=torch.tensor([True, False]),
        unsigned=torch.tensor([1, 2, 65535], dtype=torch.uint16),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    )
    path = tmp_path / "x.pt"
    for protocol in (2, 4):
        torch.save({"ema": state, "step": 7, "args": ["a", None]}, path, pickle_protocol=protocol)
        read = weights.read(path, "ema")
        assert list(read) == list(state)
        for name, tensor in state.items():
            assert read[name].shape == tuple(tensor.shape), name
            assert f"torch.{read[name].dtype.name}" == str(tensor.dtype), name
            assert raw(read[name]) == torch_bytes(torch, tensor), name
            assert read[name].flags.c_contiguous
        read.verify()


def test_reads_module_state_dict_with_its_versions(torch: Any, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "x.pth")
    read = weights.read(tmp_path / "x.pth")
    assert set(read) == set(module.state_dict())
    assert read["1.num_batches_tracked"].dtype == np.int64


def test_reads_file_without_checksums(torch: Any, tmp_path: Path) -> None:
    from torch import serialization as options

    options.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    finally:
        options.set_crc32_options(True)
    read = weights.read(tmp_path / "x.pt")
    read.verify()
    assert read["a"].tolist() == [1, 1, 1]


def test_legacy_file_says_how_to_save_it_again(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightError, match=r"legacy format of torch.*torch\.save\(torch\.load"):
        weights.read(path)


def test_saved_network_loads_strictly_under_the_reference_names(
    torch: Any, tmp_path: Path, latte: Latte, checkpoint: Path
) -> None:
    """A module with the reference's own names and shapes takes the file by load_state_dict."""
    module = torch.nn.Module()
    for name, tensor in torch.load(checkpoint, weights_only=True)["ema"].items():
        *parents, leaf = name.split(".")
        owner = module
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, torch.nn.Module())
            owner = getattr(owner, parent)
        owner.register_parameter(leaf, torch.nn.Parameter(torch.zeros_like(tensor)))
    weights.load(latte, checkpoint)
    weights.save(latte, tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)["ema"]
    assert not any(module.load_state_dict(state, strict=True))
    for name, tensor in torch.load(checkpoint, weights_only=True)["ema"].items():
        assert torch.equal(module.get_parameter(name), tensor), name


def test_reads_compressed_archive(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "x.pt"
    weights.write(path, {"": from_arrays(arrays)})
    rewrite(path, {}, zipfile.ZIP_DEFLATED)
    read = weights.read(path)
    read.verify()
    assert all(raw(read[name]) == raw(array) for name, array in arrays.items())


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_one_clear_message(
    tmp_path: Path, checkpoint: Path, fraction: float
) -> None:
    data = checkpoint.read_bytes()
    path = tmp_path / "x.pt"
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(WeightError, match=r"truncated|not a zip archive"):
        weights.read(path, "ema")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"archive/data/0": None}, "storage data/0 is missing"),
        ({"archive/data/0": b"abcd"}, "reaches beyond the end of its storage"),
        ({"archive/data.pkl": None}, "holds no data.pkl"),
        ({"archive/byteorder": b"big"}, "big-endian"),
        ({"archive/data.pkl": b"\x80\x02]."}, "holds a list"),
        ({"archive/data.pkl": b"\x80\x02}X\x03\x00\x00\x00optK\x01s."}, "no tensors.*`opt`"),
    ],
)
def test_damaged_archive_is_one_clear_message(
    tmp_path: Path, edit: dict[str, bytes | None], message: str
) -> None:
    path = tmp_path / "x.pt"
    weights.write(path, {"": from_arrays({"a": np.ones((4, 4), np.float32)})})
    rewrite(path, edit)
    with pytest.raises(WeightError, match=message) as caught:
        weights.read(path)
    assert str(path) in str(caught.value)


def test_unsigned_types_that_torch_lacks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(WeightError, match="no storage class for uint16"):
        weights.write(path, {"": from_arrays({"a": np.ones(2, np.uint16)})})
    assert not list(tmp_path.iterdir())
