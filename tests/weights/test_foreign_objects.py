"""Objects that training scripts save beside their tensors are neither built nor in the way."""

import logging
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latte_ms import weights
from latte_ms.weights import WeightError
from latte_ms.weights.formats.pickle_reader import Foreign, read_pickle
from tests.weights import hostile
from tests.weights.hostile import Harmful, beside, state_dict, tensor, text, torch_archive

OBJECTS = hostile.foreign_objects()
VIEW = tensor((4,), (1,))


def written(path: Path, pickled: bytes) -> Path:
    path.write_bytes(torch_archive(pickled))
    return path


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_is_a_name_at_most(name: str, protocol: int) -> None:
    data = pickle.dumps({"a": 1, "beside": OBJECTS[name], "b": [2]}, protocol)
    read = read_pickle(data)
    assert (read["a"], read["b"]) == (1, [2])
    if isinstance(read["beside"], Foreign):
        package = type(OBJECTS[name]).__module__.split(".")[0]
        assert read["beside"].name.split(".")[0] in (package, "__builtin__")
    else:
        assert type(read["beside"]) in (dict, set, bytes, bytearray)


def test_the_tensors_beside_them_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "x.pt", beside(OBJECTS))
    with caplog.at_level(logging.INFO, "latte_ms"):
        read = weights.read(path, "ema")
    assert read["a"].shape == (4, 4)
    assert not read["a"].any()
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"{path}: objects that are not read: rest.args (argparse.Namespace)")
    assert "rest.settings (tests.weights.hostile.Settings)" in message
    assert "and 3 more" in message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_writes(tmp_path: Path, protocol: int) -> None:
    torch: ModuleType | Any = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    checkpoint = {"args": OBJECTS, "ema": {"a": torch.ones(3)}, "opt": {"lr": OBJECTS["loss"]}}
    torch.save(checkpoint, path, pickle_protocol=protocol)
    assert weights.read(path, "ema")["a"].tolist() == [1, 1, 1]


def test_code_beside_tensors_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    harmful = {"x": Harmful(f"touch {trace}")}
    read = weights.read(written(tmp_path / "x.pt", beside(harmful)), "ema")
    assert read["a"].shape == (4, 4)
    assert not trace.exists()
    pickle.loads(pickle.dumps(harmful))  # it really is harmful
    assert trace.exists()


def test_an_error_only_where_wanted_tensors_lie_behind_one(tmp_path: Path) -> None:
    whole = b"\x80\x02}(" + text("ema") + b"cnet\nNet\n)\x81}(" + text("a") + VIEW + b"ub"
    path = written(tmp_path / "x.pt", whole + b"u.")
    with pytest.raises(WeightError, match=r"no tensors.*`ema`.*global `net\.Net`.*save the state"):
        weights.read(path, "ema")
    model = text("model") + state_dict(a=VIEW)[2:-1]
    path = written(tmp_path / "y.pt", whole + model + b"u.")
    assert list(weights.read(path, "model")) == ["a"]
    with pytest.raises(WeightError, match=r"`entry` \(='ema'\) must be one of the entries `model`"):
        weights.read(path, "ema")


def test_tensors_of_unknown_storages_are_left_out(tmp_path: Path) -> None:
    strange = tensor((4,), (1,), 0, "QInt8Storage")
    path = written(tmp_path / "x.pt", state_dict(a=VIEW, b=strange))
    assert list(weights.read(path)) == ["a"]
    with pytest.raises(WeightError, match=r"no tensors.*`torch\.QInt8Storage`"):
        weights.read(written(tmp_path / "y.pt", state_dict(b=strange)))
