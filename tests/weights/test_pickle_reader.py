"""Nothing that a pickle names is imported or called."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from latte_ms import weights
from latte_ms.weights import WeightError
from latte_ms.weights.formats.pickle_reader import read_pickle


class Harmful:
    """Runs a shell command when Python's own unpickler reads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def torch_zip(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_harmful_pickle_executes_nothing(tmp_path: Path, protocol: int, suffix: str) -> None:
    trace = tmp_path / "executed"
    data = pickle.dumps({"ema": Harmful(f"touch {trace}")}, protocol)
    path = torch_zip(tmp_path / f"harmful{suffix}", data)
    with pytest.raises(WeightError) as caught:
        weights.read(path, "ema")
    assert not trace.exists()
    message = str(caught.value)
    assert str(path) in message
    assert "global `posix.system`" in message or "opcode" in message
    if protocol >= 2:
        assert "nothing from the file was executed" in message
    pickle.loads(data)  # the file really is harmful
    assert trace.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "builtins getattr", "torch load", "torch._utils _rebuild_wrapper"]
)
def test_refuses_globals_by_name(name: str) -> None:
    with pytest.raises(WeightError, match=rf"`{name.replace(' ', '.')}`"):
        read_pickle(b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n.")
    module, attribute = (part.encode() for part in name.split())
    stacked = b"\x80\x04\x8c%c%b\x8c%c%b\x93." % (len(module), module, len(attribute), attribute)
    with pytest.raises(WeightError, match=rf"`{name.replace(' ', '.')}`"):
        read_pickle(stacked)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02(iposix\nsystem\n.", "opcode INST"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02ctorch\nfloat32\n)R.", "not a constructor"),
        (b"\x80\x02ctorch\nFloatStorage\n}b.", "sets attributes"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "sets attributes"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "not a tensor storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01t", "damaged"),
        (b"\x80\x02cposix\nsystem\n.", "global `posix.system`"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02}X\xff\xff\xff\x7fa", "damaged"),
        (b"", "damaged"),
        (b"no pickle", "opcode|damaged"),
    ],
)
def test_refuses_damaged_and_strange_pickles(data: bytes, message: str) -> None:
    with pytest.raises(WeightError, match=message):
        read_pickle(data)


def test_reads_plain_containers() -> None:
    value = {"a": [1, 2.5, None, True, "text", (3, (4,), 10**30)], "b": {"c": {5}}, "d": b"bytes"}
    for protocol in (2, 3, 4, 5):
        if protocol == 2:  # bytes need a global there
            plain = {key: item for key, item in value.items() if key != "d"}
            assert read_pickle(pickle.dumps(plain, protocol)) == plain
        else:
            assert read_pickle(pickle.dumps(value, protocol)) == value
