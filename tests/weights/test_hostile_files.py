"""Files made to hang or to fill the memory are refused at once, by one error with their name."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.weights import WeightError, files
from tests.weights import fuzz, hostile
from tests.weights.hostile import ckpt, safetensors, state_dict, tensor, torch_archive

SECONDS, MEMORY = 2, 400 << 20


def refused(path: Path, message: str) -> None:
    with hostile.limited(SECONDS, MEMORY), pytest.raises(WeightError, match=message) as caught:
        hostile.read_all(path)
    assert str(caught.value).count(str(path)) == 1
    assert len(str(caught.value)) < 1000


def entry(shape: object, begin: int = 0, end: int = 16) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


DAMAGED = "truncated, damaged"
TWICE = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":%s}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, DAMAGED),
        ({"a": "F32"}, DAMAGED),
        ({"a": entry("4")}, DAMAGED),
        ({"a": entry([4.0])}, DAMAGED),
        ({"a": entry([True])}, DAMAGED),
        ({"a": entry([4], -16, 0)}, DAMAGED),
        ({"a": entry([4], 16, 0)}, DAMAGED),
        ({"a": entry([4], 2**63, 2**63 + 16)}, DAMAGED),
        ({"__metadata__": {"a": 5}}, DAMAGED),
        (b'{"a":{"dtype":"F32","shape":[%s]}}' % (b"9" * 10**5), DAMAGED),
        (b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}", DAMAGED),
        ({"a": entry([1] * 10**6 + [4])}, "1000001 dimensions"),
        ({"a": entry([2**62] * 3 * 10**5)}, DAMAGED),
        ({"a": entry([0, *[2**62] * 3 * 10**5], 0, 0)}, DAMAGED + "|300001 dimensions"),
        ({"a": entry([0, 2**62], 0, 0), "b": entry([4])}, r"shape \(0, 4611686018427387904\)"),
        (TWICE % b'{"dtype":"I32","shape":[4],"data_offsets":[0,16]}', "a key twice"),
        ({"a\x1b[31m": entry([4])}, "no name of a tensor"),
        ({"module." * 10**5: entry([4])}, "no name of a tensor"),
        (b'{"a":1}' + b" " * (1 << 25), "the most is"),
    ],
)
def test_safetensors_header(tmp_path: Path, header: object, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors(header))
    refused(tmp_path / "x.safetensors", message)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"[" * 10**6, "JSON is damaged"),
        (b'{"weight_map": %s}' % (b"9" * 10**5), "JSON is damaged"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "a key twice"),
        (b'{"weight_map": ["a"]}', "does not map names to files"),
        (b'{"weight_map": {"a": "\\u0000.safetensors"}}', "is missing"),
        (b'{"weight_map": {"a": "%s.safetensors"}}' % (b"x" * 10**4), "is missing"),
        (b"\xff", "JSON is damaged"),
        (b"", "JSON is damaged"),
    ],
)
def test_index_of_shards(tmp_path: Path, index: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index)
    with hostile.limited(SECONDS, MEMORY), pytest.raises(WeightError, match=message) as caught:
        files.read_entries(path)
    assert str(path) in str(caught.value)


def long_list(use: bytes, count: int = 1000) -> bytes:
    """A list of 100,000 elements in the memo, which `count` opcodes use."""
    return b"\x80\x02](" + b"N" * 10**5 + b"eq\x01" + use * count + b"."


VIEW = tensor((4,), (1,))
DOUBLED = b"\x80\x02)q\x01" + b"h\x01h\x01\x86q\x01" * 200


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (state_dict(a=tensor((2**32,), (0,))), "would take 1717986"),
        (state_dict(a=tensor((0, 2**47, 2**47), (1, 1, 1))), "has the shape"),
        (state_dict(a=tensor((0, 2**62), (1, 1))), "a size that no tensor has"),
        (state_dict(a=tensor((1,), (2**62,))), "a size that no tensor has"),
        (state_dict(a=tensor((4,), (-1,))), "a size that no tensor has"),
        (state_dict(a=tensor((4,), (1,), -4)), "a size that no tensor has"),
        (state_dict(a=tensor((4,), (1,), 2**40)), "beyond the end of its storage"),
        (state_dict(a=tensor((5,), (5,))), "beyond the end of its storage"),
        (state_dict(a=tensor((4,), ())), "without a storage or strides"),
        (state_dict(a=tensor([1] * 40, [1] * 40)), "40 dimensions"),
        (state_dict(a=tensor([2**40] * 10**5, [1] * 10**5)), "without a shape"),
        (state_dict(**{"a" * 10**6: VIEW}), "no name of a tensor"),
        (state_dict(a=hostile.number(256 ** (30 << 18))), "opcode LONG4"),
        (b"\x80\x02I" + b"9" * (4 << 20) + b"\n.", "opcode INT"),
        (b"\x80\x02L" + b"9" * (4 << 20) + b"L\n.", "opcode LONG"),
        (b"\x80\x02" + b"N" * (4 << 20) + b".", "more than 524288 steps"),
        (b"\x80\x02" + b"N" * (20 << 20) + b".", "the most is 8388608"),
        (long_list(b"ctorch\nSize\nh\x01\x85R"), "more than 524288 steps"),
        (long_list(b"c__builtin__\nset\nh\x01\x85R"), "more than 524288 steps"),
        (DOUBLED + b"h\x01.", "holds a tuple"),
        (DOUBLED + b"}h\x01h\x01s.", "holds no tensors"),
        (DOUBLED + b"h\x01h\x01\x93.", "name of a global is not a string"),
        (b"\x80\x02}" + b")" + b"\x85" * 10**5 + b"Ns.", "holds no tensors"),
        (b"\x80\x02}(" + b"X\1\0\0\0a}(" * 10**4 + b"K\1K\1u.", "holds no tensors"),
    ],
)
def test_pickle(tmp_path: Path, pickled: bytes, message: str) -> None:
    (tmp_path / "x.pt").write_bytes(torch_archive(pickled))
    refused(tmp_path / "x.pt", message)


def test_dictionaries_that_name_one_another_again_and_again(tmp_path: Path) -> None:
    inner = b"}(" + b"".join(hostile.text(str(i)) + b"N" for i in range(10**4)) + b"uq\x01"
    outer = b"".join(hostile.text(f"x{i}") + b"h\x01" for i in range(10**4))
    (tmp_path / "x.pt").write_bytes(torch_archive(b"\x80\x02" + inner + b"}(" + outer + b"u."))
    refused(tmp_path / "x.pt", "dictionaries have more than")


def test_views_that_read_one_storage_again_and_again(tmp_path: Path) -> None:
    whole, ends = tensor((1 << 18,), (1,)), tensor((2,), ((1 << 18) - 1,))
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for view in (whole, ends):
            pickled = state_dict(**{f"a{i}": view for i in range(300)})
            data = torch_archive(pickled, {"data/0": bytes(1 << 20)}, compression)
            (tmp_path / "x.pt").write_bytes(data)
            refused(tmp_path / "x.pt", "tensors would take")


def test_large_packed_storage_is_read(tmp_path: Path) -> None:
    size = 3 << 20  # elements; packed, they still exceed what a directory may take
    values = np.random.default_rng(0).standard_normal(size, np.float32)
    pickled = state_dict(a=tensor((size,), (1,)))
    data = torch_archive(pickled, {"data/0": values.tobytes()}, zipfile.ZIP_DEFLATED)
    (tmp_path / "x.pt").write_bytes(data)
    assert len(data) > 10 << 20
    assert np.array_equal(weights.read(tmp_path / "x.pt")["a"], values)


def test_view_much_larger_than_its_packed_storage(tmp_path: Path) -> None:
    data = torch_archive(state_dict(a=tensor((2**32,), (0,))), None, zipfile.ZIP_DEFLATED)
    (tmp_path / "x.pt").write_bytes(data)
    refused(tmp_path / "x.pt", "tensors would take")


def inflating(member: str) -> bytes:
    """An archive one of whose members unpacks to 128 MiB."""
    members = {"data/0": bytes(64), "byteorder": b"little", member: bytes(1 << 27)}
    pickled = state_dict(a=VIEW)
    if member == "data.pkl":
        pickled = members.pop("data.pkl")
    return torch_archive(pickled, members, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("member", ["data/0", "data.pkl", "byteorder"])
def test_member_that_unpacks_to_much_more(tmp_path: Path, member: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(inflating(member))
    refused(path, "the most is")
    data = path.read_bytes().replace(struct.pack("<I", 1 << 27), struct.pack("<I", 64))
    path.write_bytes(data)  # the size in the directory is now that of a good file
    refused(path, "damaged")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_packed_member(tmp_path: Path, method: int) -> None:
    data = bytearray(torch_archive(state_dict(a=VIEW), None, method))
    data[60:90] = bytes(30)
    (tmp_path / "x.pt").write_bytes(data)
    refused(tmp_path / "x.pt", "damaged|other than deflate")


def test_member_twice_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    data = torch_archive(state_dict(a=VIEW), {"data/0": bytes(64), "data/1": bytes(64)})
    path.write_bytes(data.replace(b"data/1", b"data/0"))
    refused(path, "a member twice")
    path.write_bytes(data.replace(b"data/0", b"data/2"))
    refused(path, "storage data/0 is missing")


def test_directory_of_too_many_members(tmp_path: Path) -> None:
    one = torch_archive(state_dict(a=VIEW))
    begin = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    directory = one[begin:end] * (1 + (20 << 20) // (end - begin))
    tail = one[end : end + 12] + struct.pack("<II", len(directory), begin) + b"\0\0"
    (tmp_path / "x.pt").write_bytes(one[:begin] + directory + tail)
    refused(tmp_path / "x.pt", "the most is|damaged")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ckpt(dims=[1] * 10**6 + [4]), "more than 64 dimensions"),
        (ckpt(dims=[2**69] * 10**6), "more than 64 dimensions"),
        (ckpt(dims=[2**69, 0], size=0), "has the shape"),
        (ckpt(dims=[5]), "lacks bytes"),
        (ckpt(dtype=b"x" * 10**6), "a name of 1000000 bytes"),
        (ckpt(name=b"x" * 10**6), "a name of 1000000 bytes"),
        (ckpt(name=b"a\x1b[31m"), "no name of a tensor"),
        (ckpt() * 2, "lacks bytes"),
        (ckpt(dims=[0], size=0) * 10**5, "more than 131072 fields"),
        (hostile.field(1, hostile.field(2, b"\x20\x00" * 10**6)), "more than 131072 fields"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated"),
    ],
)
def test_ckpt(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.ckpt").write_bytes(data)
    refused(tmp_path / "x.ckpt", message)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def circular(path: Path) -> None:
    path.symlink_to(path)


NAMES = ["x.pt", "x.safetensors", "x.ckpt", "x.safetensors.index.json"]


@pytest.mark.parametrize("make", [fifo, dangling, circular, Path.mkdir, Path.touch])
@pytest.mark.parametrize("name", NAMES)
def test_no_regular_file(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / name
    make(path)
    if make is Path.touch and name == "x.ckpt":
        refused(path, "no tensors")
    else:
        refused(path, "is not a file|does not exist|is a folder without|it begins with|damaged")


def test_shard_that_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "x-00001-of-00001.safetensors"}}')
    fifo(tmp_path / "x-00001-of-00001.safetensors")
    refused(path, "is missing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", NAMES)
def test_file_that_may_not_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"{}")
    path.chmod(0)
    refused(path, "cannot be opened: Permission denied")


def test_huge_sparse_file(tmp_path: Path) -> None:
    """Its header is right: it holds a tensor of a terabyte, and asking for it fails."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({"a": entry([2**38], 0, 2**40)}, 0))
    os.truncate(path, path.stat().st_size + 2**40)
    refused(path, "cannot be read|damaged")


def test_random_sample(tmp_path: Path) -> None:
    report = fuzz.run(300, 0, tmp_path)
    assert report["faults"] == []
    assert min(report["read"], report["refused"]) > 20


@pytest.mark.extended
def test_many_random_files_in_a_process_of_their_own() -> None:
    command = [sys.executable, "-m", "tests.weights.fuzz", "500", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == []
    assert report["read"] + report["refused"] == 500
    assert report["slowest"] < 10
    assert report["memory"] < 1 << 30
    assert report["cpu"] < 60
