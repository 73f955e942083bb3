"""`.safetensors`: one file, shards with an index, folders with entries and variants."""

import json
import re
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from latte_ms import weights
from latte_ms.weights import WeightError, from_arrays


def equal(actual: np.ndarray, expected: np.ndarray) -> bool:
    return (
        actual.dtype == expected.dtype
        and actual.shape == expected.shape
        and actual.tobytes() == np.ascontiguousarray(expected).tobytes()
    )


def test_written_file_is_read_back(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "x.safetensors"
    weights.write(path, {"ema": from_arrays(arrays)})
    read = weights.read(path, "ema")
    assert set(read) == set(arrays)
    assert all(equal(read[name], arrays[name]) for name in arrays)


def test_format_library_reads_and_writes_the_same(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    plain = {name: np.ascontiguousarray(a) for name, a in arrays.items() if "bfloat16" not in name}
    weights.write(tmp_path / "ours.safetensors", {"": from_arrays(plain)})
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert all(equal(theirs[name], array) for name, array in plain.items())
    with safetensors.safe_open(tmp_path / "ours.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}  # diffusers and transformers ask for it
    safetensors.numpy.save_file(plain, tmp_path / "theirs.safetensors")
    ours = weights.read(tmp_path / "theirs.safetensors")
    assert all(equal(ours[name], array) for name, array in plain.items())


def test_tensors_are_aligned_in_the_file(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "x.safetensors"
    weights.write(path, {"": from_arrays(arrays)})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % arrays[name].itemsize == 0, name


def header(table: object, size: int = 16) -> bytes:
    text = json.dumps(table).encode() if not isinstance(table, bytes) else table
    return struct.pack("<Q", len(text)) + text + bytes(size)


def tensor(begin: int, end: int, shape: object = (4,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def dumped(begin: int, end: int) -> bytes:
    return json.dumps(tensor(begin, end)).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header too small"),
        (struct.pack("<Q", 100) + b"{}", "invalid header length"),
        (b"<html>not weights</html>", "header too large"),
        (header(b"{not json"), "invalid JSON"),
        (header([1]), "invalid JSON"),
        (header({"a": tensor(0, 16)}, 15), "file not fully covered"),
        (header({"a": tensor(0, 16)}, 20), "file not fully covered"),
        (header({"a": tensor(0, 16, (5,))}), "invalid shape"),
        (header({"a": tensor(0, 16, (2**62, 2**62, 4))}), "overflow"),
        (header({"a": tensor(0, 16, (4,), "F5")}), "invalid JSON"),
        (header({"a": tensor(0, 16, (-4,))}), "invalid value: integer `-4`"),
        (header({"a": {"dtype": "F32"}}), "missing field `shape`"),
        (header({"a": tensor(0, 16), "b": tensor(0, 16)}), "invalid offset"),
        (header({"a": tensor(0, 8, (2,)), "b": tensor(12, 16, (1,))}), "invalid offset for tensor"),
        (header(b'{"a": %s, "a": %s}' % (dumped(0, 16), dumped(16, 32)), 32), "invalid offset"),
    ],
)
def test_damaged_file_is_one_clear_message(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightError, match=message) as caught:
        weights.read(path)
    start = f"{path}: the file is truncated, damaged or no safetensors file ("
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(0, 16, (16,), "F8_E4M3"), "`a` has the dtype F8_E4M3; known dtypes are F64, F32"),
        (tensor(0, 16, (1,) * 32 + (4,)), "a tensor has 33 dimensions"),
    ],
)
def test_valid_file_of_unsupported_tensors(
    tmp_path: Path, value: dict[str, object], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(header({"a": value}))
    with pytest.raises(WeightError, match=re.escape(f"{path}: {message}")):
        weights.read(path)


def test_shards_and_index(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "model"
    weights.write(folder, {"": from_arrays(arrays)}, shard_size=100)
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0] == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())
    for path in (folder, folder / "diffusion_pytorch_model.safetensors.index.json"):
        read = weights.read(path)
        assert all(equal(read[name], arrays[name]) for name in arrays)


def test_fewer_shards_leave_none_of_the_old_ones(tmp_path: Path) -> None:
    many = {f"layer.{i}": np.full(10, i, np.float32) for i in range(6)}
    (tmp_path / "config.json").write_text("{}")
    weights.write(tmp_path, {"ema": from_arrays(many)}, shard_size=40)
    weights.write(tmp_path, {"model": from_arrays(many)})
    weights.write(tmp_path, {"ema": from_arrays({"only": many["layer.1"]})})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "ema.safetensors",
        "model.safetensors",
    ]
    assert list(weights.read(tmp_path, "ema")) == ["only"]


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    weights.write(tmp_path, {"": from_arrays({"a": np.ones(4), "b": np.ones(4)})}, shard_size=32)
    path = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())

    def refused(weight_map: object, message: str) -> None:
        path.write_text(json.dumps({**index, "weight_map": weight_map}))
        with pytest.raises(WeightError, match=message):
            weights.read(tmp_path)

    first, second = index["weight_map"]["a"], index["weight_map"]["b"]
    refused({"a": first, "b": second, "c": second}, "only in the index: `c`")
    refused({"a": first, "b": first}, "only in the index: `b`")
    refused({"a": "../secret.safetensors"}, "a shard must be a file in the folder of its index")
    refused({"a": "/etc/passwd"}, "a shard must be a file in the folder of its index")
    refused({"a": 1}, "does not map names to files")
    refused(None, "does not map names to files")
    (tmp_path / second).unlink()
    refused(index["weight_map"], f"shard {second} is missing")


def test_folder_entries_and_variants(tmp_path: Path) -> None:
    for i, name in enumerate(("model", "ema", "diffusion_pytorch_model.fp16")):
        weights.write(
            tmp_path / f"{name}.safetensors", {"": from_arrays({"a": np.full(2, i, np.float32)})}
        )
    assert weights.read(tmp_path, "ema")["a"].tolist() == [1, 1]
    assert weights.read(tmp_path, "model")["a"].tolist() == [0, 0]
    assert weights.read(tmp_path, "ema", variant="fp16")["a"].tolist() == [2, 2]
    with pytest.raises(WeightError, match="entries `ema`, `model`"):
        weights.read(tmp_path, "unknown")
    with pytest.raises(WeightError, match=r"variants `\(none\)`, `fp16`"):
        weights.read(tmp_path, variant="bf16")
    (tmp_path / "optimizer.safetensors").write_bytes(b"damaged, and not requested")
    assert weights.read(tmp_path, "ema")["a"].tolist() == [1, 1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightError, match=r"folder without \.safetensors files"):
        weights.read(tmp_path / "empty")
    with pytest.raises(WeightError, match="is for folders"):
        weights.read(tmp_path / "ema.safetensors", variant="fp16")


def test_sharded_variant_has_the_names_of_diffusers(tmp_path: Path) -> None:
    stem = "diffusion_pytorch_model"
    shards = [f"{stem}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard, name in zip(shards, "ab", strict=True):
        weights.write(tmp_path / shard, {"": from_arrays({name: np.ones(2, np.float16)})})
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (tmp_path / f"{stem}.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert set(weights.read(tmp_path, variant="fp16")) == {"a", "b"}
    with pytest.raises(WeightError, match="variants `fp16`"):
        weights.read(tmp_path)


def test_bfloat16_keeps_its_bits(tmp_path: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    for suffix in (".safetensors", ".pt", ".ckpt"):
        path = tmp_path / f"x{suffix}"
        weights.write(path, {"": from_arrays({"a": bits.view(ml_dtypes.bfloat16)})})
        assert np.array_equal(weights.read(path)["a"].view(np.uint16), bits)
