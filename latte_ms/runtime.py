"""Device, mode, fusion, precision and rank: the only module that sets MindSpore's context."""

import importlib.util
import math
import os
import threading
from dataclasses import dataclass

import mindspore as ms
from mindspore import communication

from latte_ms.launcher import end_with_launcher

DEVICES = ("CPU", "GPU", "Ascend")
PRECISIONS = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
# Without these flags, fusion on CPU is silently wrong in bias gradients and around transpositions
# (the gradient of a bias whose output is transposed next), and casts to float16 hang its compiler.
_CPU_FUSION_FLAGS = "--disable_expand_ops=BiasAddGrad --disable_cluster_ops=Transpose,Cast"


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how graphs run: the section `runtime` of every recipe."""

    device: str = "CPU"  # CPU, GPU or Ascend
    precision: str = "float32"  # compute dtype: float32, float16 or bfloat16
    graph: bool = True  # compile whole graphs; false runs operator by operator, for debugging
    jit_level: str = "O1"  # O0 (kernel by kernel) or O1 (with fusion)
    distributed: bool = False  # started by msrun: one process per device
    memory_limit_gb: float = 0.0  # device memory this process may take; 0: all of it


@dataclass(frozen=True)
class Rank:
    """The number of this process among those that `msrun` started; 0 of 1 without it."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.index == 0


# Held during a pipeline call, and during each batch of `LatteSampler.__call__`: one thread uses the
# device at a time.
device_lock = threading.RLock()
_applied: RuntimeConfig | None = None  # the configuration of the first call of `setup`


def setup(config: RuntimeConfig) -> Rank:
    """Apply `config` to this process. Call it before creating any tensor.

    Later calls may change mode, precision and level, but not the device, its memory limit or
    `distributed`.

    Raises ValueError for an unknown device, precision or level, a device that this machine does not
    have, a precision without kernels on the device, or a later change of a fixed setting.
    """
    global _applied
    _check(config)
    ms.set_context(mode=ms.GRAPH_MODE if config.graph else ms.PYNATIVE_MODE)
    if _applied is None:
        _set_device(config)
        _applied = config
    _check_fixed(config, _applied)
    if config.graph:
        _set_fusion(config)
    if not config.distributed:
        return Rank()
    return Rank(communication.get_rank(), communication.get_group_size())


def compute_dtype(precision: str) -> ms.Type:
    """The dtype of matrix products and convolutions under `precision`."""
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {sorted(PRECISIONS)}, got {precision!r}.")
    return PRECISIONS[precision]


def check_precision(precision: str, device: str, key: str = "runtime.precision") -> None:
    """Raise ValueError, naming `key`, for a precision that is unknown or missing on `device`."""
    if precision not in PRECISIONS:
        raise ValueError(f"`{key}` must be one of {sorted(PRECISIONS)}, got {precision!r}.")
    if device == "CPU" and precision == "bfloat16":
        raise ValueError(
            f"`{key}` bfloat16 has no CPU kernels in MindSpore; use float32 or float16."
        )


def compiles_cells() -> bool:
    """Whether cells run as whole graphs; MindSpore's default is operator by operator."""
    return bool(ms.get_context("mode") == ms.GRAPH_MODE)


def _check(config: RuntimeConfig) -> None:
    if config.device not in DEVICES:
        raise ValueError(f"`runtime.device` must be one of {DEVICES}, got {config.device!r}.")
    if config.jit_level not in ("O0", "O1"):
        raise ValueError(f"`runtime.jit_level` must be O0 or O1, got {config.jit_level!r}.")
    check_precision(config.precision, config.device)
    if not 0 <= config.memory_limit_gb < math.inf:
        raise ValueError(
            "`runtime.memory_limit_gb` must be finite and not negative, "
            f"got {config.memory_limit_gb}."
        )


def _check_fixed(config: RuntimeConfig, applied: RuntimeConfig) -> None:
    for name in ("device", "memory_limit_gb", "distributed"):
        before, now = getattr(applied, name), getattr(config, name)
        if now != before:
            raise ValueError(
                f"`runtime.{name}` (={now}) must stay {before} for the life of this process."
            )


def _set_device(config: RuntimeConfig) -> None:
    """The settings that MindSpore accepts only once, before any operator has run."""
    try:
        ms.set_device(config.device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`runtime.device` (={config.device}) cannot be used here: {reason}"
        ) from error
    ms.set_recursion_limit(10000)
    if config.memory_limit_gb > 0:
        ms.runtime.set_memory(max_size=f"{config.memory_limit_gb}GB")
    if not config.distributed:
        return
    end_with_launcher()  # before `init`, from which MindSpore's scheduler does not return
    try:
        communication.init()
    except RuntimeError as error:
        if "MS_ROLE" in os.environ:  # set by msrun, so the cause is a different one
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"`runtime.distributed` needs a start by msrun: {reason}") from error
    ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True)


def _set_fusion(config: RuntimeConfig) -> None:
    if config.device != "CPU":
        ms.set_context(jit_config={"jit_level": config.jit_level})
    elif config.jit_level == "O1" and importlib.util.find_spec("decorator"):
        # AKG, which compiles the fused kernels, looks for a table of tilings under this path, by
        # default the working directory: kernels would depend on where a process was started.
        # Without the table it prints "Please set tiling repo path" and chooses a tiling itself.
        os.environ.setdefault("AKG_WHITE_LIST_PATH", os.devnull)
        ms.set_context(enable_graph_kernel=True, graph_kernel_flags=_CPU_FUSION_FLAGS)
    elif ms.get_context("enable_graph_kernel"):  # set by an earlier call
        ms.set_context(enable_graph_kernel=False)
