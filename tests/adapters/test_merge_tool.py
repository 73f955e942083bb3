"""`tools/merge_lora.py`: targets that are taken, and those that would remove what is read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latte_ms import adapters, weights
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.weights.pretrained import save_pretrained
from tools import merge_lora


@pytest.fixture
def source(t2v: LatteT2V, t2v_shapes: dict, random_lora: Callable, tmp_path: Path) -> Path:
    """A transformer's folder `all/transformer`, and LoRA weights in `all/lora`."""
    save_pretrained(t2v, tmp_path / "all" / "transformer")
    (tmp_path / "all" / "lora").mkdir()
    adapters.write(tmp_path / "all" / "lora" / "lora.safetensors", random_lora(t2v_shapes, "to_q"))
    return tmp_path / "all" / "transformer"


def tool(source: Path, target: Path, *options: str) -> int:
    lora = source.parent / "lora"
    return merge_lora.main([f"--source={source}", f"--lora={lora}", f"--target={target}", *options])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("all/transformer", "must not be `--source` or a `--lora` itself"),
        ("all/lora", "must not be `--source` or a `--lora` itself"),
        ("all/transformer/merged", "must not lie in `--source`"),
        ("all", "`--target` must not hold what is read"),
        (".", "`--target` must not hold what is read"),
        ("merged.safetensors", "`--target` must be a folder"),
    ],
)
def test_what_is_read_is_never_replaced(
    source: Path, tmp_path: Path, target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert tool(source, tmp_path / target, "--force") == 1
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["merged_0.7", "all/lora/merged"])
def test_a_folder_may_have_a_point_or_lie_beside_the_matrices(
    source: Path, tmp_path: Path, target: str
) -> None:
    for options in ([], ["--force"]):
        assert tool(source, tmp_path / target, "--scale=0.7", *options) == 0
    merged, plain = weights.read(tmp_path / target), weights.read(source)
    changed = {name for name in plain if not np.array_equal(plain[name], merged[name])}
    assert changed
    assert all(name.endswith("to_q.weight") for name in changed)
