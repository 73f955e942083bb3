"""Every graph compiles for an Ascend, in simulation, on its fast kernels."""

import inspect
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from latte_ms.layers import kernels
from tests.transformer.test_variants import ALL
from tools import ascend_kernels

LOG = """
[INFO] select.cc:1] GenerateKernelBuildInfo] Default/net-Latte/Add-op3 input_num: 2, output_num: 1
[INFO] select.cc:2] CollectOpSelectedType] Add select aclnn kernel
[INFO] select.cc:1] GenerateKernelBuildInfo] Gradients/Default/Reshape-op1 input_num: 2
[INFO] select.cc:1] GenerateKernelBuildInfo] Default/net-Latte/Add-op4 input_num: 2, output_num: 1
[INFO] exec.cc:7] GenerateKernelMod] kernel opname:Add, kernel type:opapi_kernel
[INFO] exec.cc:7] GenerateKernelMod] kernel opname:GraphKernel_Add_fusion, kernel type:akg_kernel
[INFO] mem.cc:9] Actual peak memory usage (with fragments): 7M
"""
SLICE = """
[INFO] select.cc:1] GenerateKernelBuildInfo] Default/StridedSlice-op0 input_num: 4, output_num: 1
[INFO] select.cc:2] CollectOpSelectedType] StridedSlice select aclop kernel
"""


# `kernels` has every kernel function by itself; the networks here have all the ways in which the
# others put them together. These are slow tests, the others extended ones.
OF_EACH_KIND = {
    "kernels",
    "t2v16-step",
    "t2v-bf16-step",
    "decode-temporal16",
    "train-options",
    "train-lora-t2v",
    "train-sequence-parallel",
}


def launched(times: int) -> str:
    """A log in which AddN is selected, and launched so often."""
    node = "[INFO] exec.cc:7] GenerateKernelMod] kernel opname:AddN, kernel type:acl_kernel\n"
    selected = "[INFO] s.cc:2] CollectOpSelectedType] AddN select aclop kernel\n"
    return LOG + selected + node * times + ascend_kernels.FINISHED


def test_all_combinations_of_the_study_have_a_graph() -> None:
    named = {tuple(name.split("-")[1:]) for name in ascend_kernels.study_names()}
    assert named == {tuple(map(str, choice)) for choice in ALL}


def test_a_log_is_read() -> None:
    report = ascend_kernels.read_log("x", LOG + ascend_kernels.FINISHED, 0)
    assert report.accepted
    assert report.kinds == {"Add": {"aclnn"}}
    assert report.counts == {"Add": 2, "Reshape": 1}
    assert report.launches["Add"] == 1
    assert report.launched == {"aclnn": 1, "fused": 1}
    assert report.memory == "7M"
    assert "view   Reshape" in report.table()


def test_a_slow_kernel_is_refused() -> None:
    report = ascend_kernels.read_log("x", LOG + SLICE + ascend_kernels.FINISHED, 0)
    assert report.slow == ["StridedSlice"]
    assert not report.accepted
    assert "SLOW" in report.table()


@pytest.mark.parametrize("level", ["O0", "O1"])
def test_a_named_exception_has_a_limit(level: str) -> None:
    allowance = ascend_kernels.ALLOWED["AddN"]
    most = allowance.unfused if level == "O0" else allowance.fused
    assert ascend_kernels.read_log("x", launched(most), 0, level).accepted
    assert ascend_kernels.read_log("x", launched(most + 1), 0, level).slow == ["AddN"]


def test_a_graph_that_does_not_compile_is_refused() -> None:
    report = ascend_kernels.read_log("x", LOG + "ValueError: `x` is wrong\n", 1)
    assert not report.accepted
    assert report.failure == "ValueError: `x` is wrong"
    assert "status -11" in ascend_kernels.read_log("x", LOG, -11).failure


def test_the_graphs_of_each_kind_exist() -> None:
    assert set(ascend_kernels.graph_names()) >= OF_EACH_KIND


def test_every_kernel_function_is_in_a_graph() -> None:
    functions = {
        name
        for name, function in inspect.getmembers(kernels, inspect.isfunction)
        if function.__module__ == kernels.__name__ and not name.startswith("_")
    }
    path = ascend_kernels.GRAPHS_SCRIPT.with_name("ascend_primitives.py")
    text = path.read_text(encoding="utf-8")
    of_the_step = {"assign"}  # in the graphs of training
    questions = {"on_ascend", "has_flash_attention", "has_all_to_all"}
    missing = {name for name in functions if f"kernels.{name}(" not in text}
    assert missing <= of_the_step | questions


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-ins for an Ascend."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the stand-ins are made for x86-64 Linux")
    missing = [name for name in ("gcc", "nm", "readelf", "strings") if shutil.which(name) is None]
    assert not missing, f"the stand-ins are made with {', '.join(missing)}: install them"
    return ascend_kernels.stand_ins(tmp_path_factory.mktemp("ascend"))


@pytest.fixture(scope="module")
def simulate(stand_ins: Path) -> Callable[[str], ascend_kernels.Report]:
    """`simulate(graph)`: its report at O1; each graph is compiled once."""
    return cache(lambda graph: ascend_kernels.simulate(graph, "O1", stand_ins))


PRECISION = """
from mindspore.device_context.ascend.op_precision import conv_allow_hf32
from latte_ms import runtime

runtime.setup(runtime.RuntimeConfig(device="Ascend"))
conv_allow_hf32(False)  # what it is already may be chosen again
try:
    conv_allow_hf32(True)
except RuntimeError as error:
    print("REFUSED", error)
"""


@pytest.mark.slow
def test_convolutions_keep_float32(stand_ins: Path) -> None:
    """An Ascend takes one choice per process: that of `setup` is there already."""
    done = subprocess.run(
        [sys.executable, "-c", PRECISION],
        env=ascend_kernels.environment(stand_ins, parallel=False),
        cwd=stand_ins,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "REFUSED The 'conv_allow_hf32' can not be set repeatedly." in done.stdout, done.stderr


def of_a_kind(graph: str) -> object:
    mark = pytest.mark.slow if graph in OF_EACH_KIND else pytest.mark.extended
    return pytest.param(graph, marks=mark)


@pytest.mark.parametrize(
    "graph", [*map(of_a_kind, ascend_kernels.graph_names() + ascend_kernels.study_names())]
)
def test_every_kernel_is_fast_or_a_named_exception(graph: str, simulate: Callable) -> None:
    report = simulate(graph)
    assert report.accepted, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["t2v16-step", "t2v-bf16-step"])
def test_only_temporal_attention_of_a_guided_step_has_scores(
    graph: str, simulate: Callable
) -> None:
    """4 spatial and 4 temporal blocks, masked prompts."""
    report = simulate(graph)
    counts = report.counts
    assert counts["FlashAttentionScore"] == 4 + 4, "spatial self-attention and cross-attention"
    products = {name for name in counts if "MatMul" in name}
    assert products == {"BatchMatMul", "MatMulExt"}  # q k^T and the product with v
    for name in (*products, "Softmax"):
        assert counts[name] == 4, f"{name} of temporal blocks alone"
    assert counts["Equal"] == 1, "the mask is made once for all layers"
    assert counts["BroadcastTo"] <= 2, "one of the mask, one of the timestep"


@pytest.mark.slow
def test_transpositions_and_casts_of_a_guided_step(simulate: Callable) -> None:
    """Per temporal block q, k, v and the result are transposed, and scores cast to and fro."""
    launches = simulate("t2v16-step").launches
    assert launches["Transpose"] <= 4 * 4 + 4  # and patches and channels, at both ends
    assert launches["Cast"] <= 4 * 2 + 4  # and latents, timestep, conditions and the output
