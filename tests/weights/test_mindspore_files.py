"""`.ckpt`: MindSpore reads what is written here, and what MindSpore writes is read here."""

from pathlib import Path

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from latte_ms import weights
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.formats import mindspore


def test_mindspore_reads_what_is_written_here(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "x.ckpt"
    written = {name: array for name, array in arrays.items() if array.size}
    weights.write(path, {"": from_arrays(written)})
    loaded = ms.load_checkpoint(str(path))
    assert set(loaded) == set(written)
    for name, array in written.items():
        assert loaded[name].shape == array.shape
        if array.dtype == ml_dtypes.bfloat16:
            assert loaded[name].dtype == ms.bfloat16
            array, actual = array.astype(np.float32), loaded[name].astype(ms.float32).asnumpy()
        else:
            actual = loaded[name].asnumpy()
            assert actual.dtype == array.dtype
        assert actual.tobytes() == np.ascontiguousarray(array).tobytes(), name


@pytest.mark.parametrize("checksum", [False, True])
def test_reads_what_mindspore_writes(tmp_path: Path, checksum: bool) -> None:
    path = tmp_path / "x.ckpt"
    expected = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1, -2], np.int64),
        "c": np.array(3.5, np.float16),
        "d": np.array([True, False]),
    }
    saved = [{"name": k, "data": Parameter(Tensor(v), name=k)} for k, v in expected.items()]
    brain = Tensor(np.array([1.5, -3.0], np.float32), ms.bfloat16)
    saved.append({"name": "e", "data": Parameter(brain, name="e")})
    ms.save_checkpoint(saved, str(path), append_dict={"note": "text"}, crc_check=checksum)
    read = weights.read(path)
    read.verify()
    assert set(read) == {*expected, "e"}  # the note is not a tensor
    assert read.naming == "memory"
    for name, array in expected.items():
        assert read[name].shape == array.shape, name
        assert read[name].dtype == array.dtype
        assert read[name].tobytes() == array.tobytes()
    assert read["e"].dtype == ml_dtypes.bfloat16
    assert read["e"].astype(np.float32).tolist() == [1.5, -3.0]


def test_large_tensors_are_split_into_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "x.ckpt"
    monkeypatch.setattr(mindspore, "_SLICE", 16)
    weights.write(path, {"": from_arrays(arrays)})
    read = weights.read(path)
    assert all(read[name].tobytes() == arrays[name].tobytes("C") for name in arrays)
    loaded = ms.load_checkpoint(str(path), choice_func=lambda name: name == "float32.weight")
    assert np.array_equal(loaded["float32.weight"].asnumpy(), arrays["float32.weight"])


def test_older_spelling_of_a_scalar(tmp_path: Path) -> None:
    """Dimensions [0] with one element: MindSpore wrote scalars so, and still reads them so."""
    path = tmp_path / "x.ckpt"
    tensor = b"\x08\x00\x12\x05Int32\x1a\x04\x07\x00\x00\x00"
    value = b"\x0a\x01a\x12" + bytes([len(tensor)]) + tensor
    path.write_bytes(b"\x0a" + bytes([len(value)]) + value)
    read = weights.read(path)["a"]
    assert read.shape == ()
    assert read == 7


def test_wrong_checksum_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    parameter = Parameter(Tensor(np.arange(100, dtype=np.float32)), name="a")
    ms.save_checkpoint([{"name": "a", "data": parameter}], str(path), crc_check=True)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.unlink()  # MindSpore leaves its files read-only
    path.write_bytes(data)
    with pytest.raises(WeightError, match="wrong CRC-32"):
        weights.read(path).verify()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no tensors"),
        (b"\x0a", "truncated"),
        (b"\x0a\x10\x0a\x01a", "truncated"),
        (b"\x0a\x03\x0a\x01a", "a value is not a tensor"),
        (b"\x0a\x05\x0a\x01a\x1a\x00", "hash-map parameter"),
        (b"\x0a\x0b\x0a\x01a\x12\x06\x12\x04Oct7", "unknown dtype 'Oct7'"),
        (b"MINDSPORE encrypted bytes", "not a MindSpore checkpoint"),
        (bytes(range(256)), "not a MindSpore checkpoint"),
    ],
)
def test_damaged_file_is_one_clear_message(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(data)
    with pytest.raises(WeightError, match=message) as caught:
        weights.read(path)
    assert str(path) in str(caught.value)


def test_truncated_file_is_one_clear_message(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    weights.write(path, {"": from_arrays({"a": np.ones(100, np.float32)})})
    data = path.read_bytes()
    for size in (1, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(WeightError, match="truncated"):
            weights.read(path)
