"""NaN and infinite weights are named before a network takes them, and nothing changes then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from mindspore import nn

from latte_ms import weights
from latte_ms.transformer.latte import Latte
from latte_ms.weights import WeightError, from_arrays
from latte_ms.weights.finite import count_non_finite
from latte_ms.weights.pretrained import load_text_encoder

Values = Callable[[nn.Cell], dict[str, np.ndarray]]
TYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_value_is_told(dtype: type) -> None:
    limits = ml_dtypes.finfo(dtype)
    fine = [0.0, -0.0, 1.0, limits.max, limits.min, limits.smallest_subnormal]
    assert count_non_finite(np.array(fine, dtype)) == 0
    assert count_non_finite(np.array([*fine, np.nan, np.inf, -np.inf, -np.nan], dtype)) == 4
    if np.dtype(dtype).itemsize == 2:
        every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
        assert count_non_finite(every) == np.count_nonzero(~np.isfinite(every.astype(np.float32)))


def test_size_and_layout_do_not_matter() -> None:
    array = np.zeros((1200, 1001), np.float32)
    array[5, 7] = array[1199, 1000] = array[0, 0] = np.nan
    assert count_non_finite(array) == 3
    assert count_non_finite(array.T[::2]) == 2
    assert count_non_finite(array[:0]) == 0
    assert count_non_finite(np.array(np.inf, np.float16)) == 1
    assert count_non_finite(np.array([-1, 2**31 - 1], np.int32)) == 0


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.ckpt", "folder"])
def test_load_names_them_and_changes_nothing(
    latte: Latte, checkpoint: Path, tmp_path: Path, values: Values, name: str
) -> None:
    weights.load(latte, checkpoint)
    weights.save(latte, tmp_path / name)
    tensors = dict(weights.read(tmp_path / name, "ema"))
    first, *_, last = [key for key, array in tensors.items() if array.dtype == np.float32]
    for key, value in ((first, np.nan), (last, -np.inf)):
        tensors[key] = tensors[key].copy()
        tensors[key].flat[-1] = value
    weights.write(tmp_path / name, {"ema": from_arrays(tensors)})
    before = values(latte)
    with pytest.raises(WeightError, match=f"2 of {len(tensors)} tensors hold NaN") as caught:
        weights.load(latte, tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name))
    assert f"`{first}` (1 of {tensors[first].size}), `{last}` (1 of" in message
    after = values(latte)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_weights_of_nothing_but_nan(latte: Latte, checkpoint: Path, tmp_path: Path) -> None:
    tensors = {
        k: np.full_like(array, np.nan) for k, array in weights.read(checkpoint, "ema").items()
    }
    weights.write(tmp_path / "x.pt", {"ema": from_arrays(tensors)})
    with pytest.raises(WeightError, match=r"tensors hold NaN.* and \d+ more\.$") as caught:
        weights.load(latte, tmp_path / "x.pt")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("streamed", [False, True])
def test_text_encoder_that_is_streamed(reference: Path, tmp_path: Path, streamed: bool) -> None:
    source = reference / "t2v" / "text_encoder"
    tensors = dict(weights.read(source, "model"))
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.inf
    shutil.copy(source / "config.json", tmp_path)
    weights.write(tmp_path, {"model": from_arrays(tensors)})
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    ids = np.arange(120, dtype=np.int32)[None] % vocabulary
    with pytest.raises(WeightError, match=f"`{name}` .1 of {tensors[name].size}") as caught:
        load_text_encoder(tmp_path, streamed=streamed).embed(ids, np.ones_like(ids))
    assert str(caught.value).startswith(str(tmp_path))
