"""Files of TorchScript: their tensors are read, their code is not."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from latte_ms import weights
from latte_ms.weights import WeightError


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(3, 4, 1, bias=False)
        self.bn = nn.BatchNorm3d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv3d(x)))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unit = Inner()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.number = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unit(x)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("traced", [False, True])
def test_a_scripted_module_is_its_state_dict(traced: bool, tmp_path: Path) -> None:
    module = Outer().eval()
    path = tmp_path / "module.pt"
    if traced:
        torch.jit.trace(module, torch.zeros(1, 3, 1, 1, 1)).save(path)
    else:
        torch.jit.script(module).save(path)
    found = weights.read(path)
    expected = torch.jit.load(path).state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def archive(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("module/data.pkl", data)
    return path


def test_modules_that_hold_each_other_are_refused(tmp_path: Path) -> None:
    """module = {"a": module}, by the memo; and 2^30 modules of 30 that name the next one twice."""
    cycle = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}X\x01\x00\x00\x00ah\x01sb."
    with pytest.raises(WeightError, match="hold each other"):
        weights.read(archive(tmp_path / "cycle.pt", cycle))
    opened = b"c__torch__\nM\n)\x81"
    text = b"\x80\x02" + opened + b"q\x00"
    for number in range(30):
        last, index = bytes([number]), bytes([number + 1])
        text += opened + b"}(X\x01\x00\x00\x00ah" + last + b"X\x01\x00\x00\x00bh" + last
        text += b"ubq" + index
    with pytest.raises(WeightError, match="hold each other"):
        weights.read(archive(tmp_path / "wide.pt", text + b"."))


def test_attributes_must_be_a_dictionary(tmp_path: Path) -> None:
    data = b"\x80\x02c__torch__\nM\n)\x81]b."
    with pytest.raises(WeightError, match="not a dictionary"):
        weights.read(archive(tmp_path / "list.pt", data))
