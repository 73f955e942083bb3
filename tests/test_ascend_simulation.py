"""Every graph compiles for an Ascend, in simulation, on its fast kernels."""

import inspect
import platform
import shutil
import sys
from pathlib import Path

import pytest

from latte_ms.layers import kernels
from tools import ascend_kernels

LOG = """
[INFO] select.cc:1] GenerateKernelBuildInfo] Default/net-Latte/Add-op3 input_num: 2, output_num: 1
[INFO] select.cc:2] CollectOpSelectedType] Add select aclnn kernel
[INFO] select.cc:1] GenerateKernelBuildInfo] Gradients/Default/Reshape-op1 input_num: 2
[INFO] select.cc:1] GenerateKernelBuildInfo] Default/net-Latte/Add-op4 input_num: 2, output_num: 1
[INFO] mem.cc:9] Actual peak memory usage (with fragments): 7M
"""
SLICE = """
[INFO] select.cc:1] GenerateKernelBuildInfo] Default/StridedSlice-op0 input_num: 4, output_num: 1
[INFO] select.cc:2] CollectOpSelectedType] StridedSlice select aclop kernel
"""


def allowed(times: int) -> str:
    node = "[INFO] s.cc:1] GenerateKernelBuildInfo] Gradients/Default/AddN-op{} input_num: 2\n"
    nodes = "".join(node.format(i) for i in range(times))
    return f"{nodes}[INFO] s.cc:2] CollectOpSelectedType] AddN select aclop kernel\n"


def test_a_log_is_read() -> None:
    report = ascend_kernels.read_log("x", LOG + ascend_kernels.FINISHED, 0)
    assert report.accepted
    assert report.kinds == {"Add": {"aclnn"}}
    assert report.counts == {"Add": 2, "Reshape": 1}
    assert report.memory == "7M"
    assert "view   Reshape" in report.table()


def test_a_slow_kernel_is_refused() -> None:
    report = ascend_kernels.read_log("x", LOG + SLICE + ascend_kernels.FINISHED, 0)
    assert report.slow == ["StridedSlice"]
    assert not report.accepted
    assert "SLOW" in report.table()


def test_a_named_exception_has_a_limit() -> None:
    most = ascend_kernels.ALLOWED["AddN"].most
    few, many = (
        ascend_kernels.read_log("x", LOG + allowed(times) + ascend_kernels.FINISHED, 0)
        for times in (most, most + 1)
    )
    assert few.accepted
    assert many.slow == ["AddN"]


def test_a_graph_that_does_not_compile_is_refused() -> None:
    report = ascend_kernels.read_log("x", LOG + "ValueError: `x` is wrong\n", 1)
    assert not report.accepted
    assert report.failure == "ValueError: `x` is wrong"
    assert "status -11" in ascend_kernels.read_log("x", LOG, -11).failure


def test_every_kernel_function_is_in_a_graph() -> None:
    functions = {
        name
        for name, function in inspect.getmembers(kernels, inspect.isfunction)
        if function.__module__ == kernels.__name__ and not name.startswith("_")
    }
    text = ascend_kernels.GRAPHS_SCRIPT.read_text(encoding="utf-8")
    of_the_step = {"assign"}  # in the graphs of training
    questions = {"on_ascend", "has_flash_attention"}
    missing = {name for name in functions if f"kernels.{name}(" not in text}
    assert missing <= of_the_step | questions


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the stand-ins are made for x86-64 Linux")
    missing = [name for name in ("gcc", "nm", "readelf", "strings") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"the stand-ins are made with {', '.join(missing)}")
    return ascend_kernels.stand_ins(tmp_path_factory.mktemp("ascend"))


@pytest.mark.slow
@pytest.mark.parametrize("graph", ascend_kernels.graph_names())
def test_every_kernel_is_fast_or_a_named_exception(graph: str, stand_ins: Path) -> None:
    report = ascend_kernels.simulate(graph, "O1", stand_ins)
    assert report.accepted, report.table()
