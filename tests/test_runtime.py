"""What the runtime refuses, before it touches the process."""

import mindspore as ms
import pytest

from latte_ms.runtime import PRECISIONS, Rank, RuntimeConfig, compute_type, setup


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "TPU"}, r"`runtime.device` must be one of .*CPU.*GPU.*Ascend.* got 'TPU'"),
        ({"device": "cpu"}, r"`runtime.device` must be one of .* got 'cpu'"),
        ({"precision": "fp16"}, r"`precision` must be one of .*float16.* got 'fp16'"),
        ({"jit_level": "O2"}, r"`runtime.jit_level` must be O0 or O1, got 'O2'"),
        ({"precision": "bfloat16"}, r"bfloat16 has no CPU kernels .* use float32 or float16"),
        ({"memory_limit_gb": -1.0}, r"`runtime.memory_limit_gb` must not be negative, got -1.0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], message: str) -> None:
    mode = ms.get_context("mode")
    with pytest.raises(ValueError, match=message):
        setup(RuntimeConfig(**{**settings, "graph": False}))
    assert ms.get_context("mode") == mode


def test_bfloat16_is_a_precision_of_other_devices() -> None:
    assert compute_type("bfloat16") == ms.bfloat16
    assert PRECISIONS.keys() == {"float32", "float16", "bfloat16"}


def test_one_process_is_the_first_of_one() -> None:
    rank = setup(RuntimeConfig())
    assert rank == Rank(0, 1)
    assert rank.is_first
    assert not Rank(1, 2).is_first


def test_graphs_and_operators_one_by_one() -> None:
    try:
        setup(RuntimeConfig(graph=False))
        assert ms.get_context("mode") == ms.PYNATIVE_MODE
    finally:
        setup(RuntimeConfig())
    assert ms.get_context("mode") == ms.GRAPH_MODE
    assert ms.get_context("device_target") == "CPU"
