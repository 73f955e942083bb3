"""Device, mode, fusion, precision and rank: the only module that sets MindSpore's context."""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import communication

from latte_ms.launcher import end_with_launcher
from latte_ms.messages import shown
from latte_ms.options import MANY, Rule, check_each, numbers, one_of

logger = logging.getLogger(__name__)

_CPU_EXCHANGE_SECONDS = 1800

AUTO = "auto"
DEVICES = ("CPU", "GPU", "Ascend")
PRECISIONS = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
# Without these flags, fusion on CPU is silently wrong in bias gradients and around transpositions
# (the gradient of a bias whose output is transposed next), and casts to float16 hang its compiler.
_CPU_FUSION_FLAGS = "--disable_expand_ops=BiasAddGrad --disable_cluster_ops=Transpose,Cast"
_RULES: dict[str, Rule] = {
    "device": one_of(AUTO, *DEVICES),
    "precision": one_of(AUTO, *sorted(PRECISIONS)),
    "jit_level": one_of("O0", "O1"),
    "memory_limit_gb": numbers(0, MANY),
}


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how graphs run: the section `runtime` of every recipe."""

    device: str = AUTO  # CPU, GPU, Ascend; auto: an Ascend or GPU where there is one, else CPU
    precision: str = AUTO  # compute dtype: float32, float16, bfloat16, or auto by the device
    graph: bool = True  # compile whole graphs; false runs operator by operator, for debugging
    jit_level: str = "O1"  # O0 (kernel by kernel) or O1 (with fusion)
    distributed: bool = False  # started by msrun: one process per device
    memory_limit_gb: float = 0.0  # device memory this process may take; 0: all of it

    def resolved(self, on_ascend: str = "float16") -> "RuntimeConfig":
        """The configuration with what `auto` stands for on this machine.

        The precision is float32 on a CPU, which is slower in 16 bit, float16 on a GPU, and
        `on_ascend` on an Ascend.

        Raises ValueError for an unknown device, precision or level, or a precision without kernels
        on the device.
        """
        check_each(self, _RULES, "runtime.")
        device = find_device() if self.device == AUTO else self.device
        suitable = {"CPU": "float32", "GPU": "float16", "Ascend": on_ascend}
        precision = suitable[device] if self.precision == AUTO else self.precision
        check_precision(precision, device)
        return dataclasses.replace(self, device=device, precision=precision)


@dataclass(frozen=True)
class Rank:
    """The number of this process among those that `msrun` started; 0 of 1 without it."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.index == 0


class DeviceLock:
    """Lets one thread at a time use MindSpore; a thread that holds it may enter again.

    MindSpore's own threads do not survive a fork: in a child forked after its parent has held the
    lock, entering raises RuntimeError instead of waiting for them for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._used = self._inherited = False
        os.register_at_fork(after_in_child=self._after_fork)

    def __enter__(self) -> None:
        if self._inherited:
            raise RuntimeError(
                "This process was forked from one that had used MindSpore, which cannot work in "
                "it. Start processes by multiprocessing.get_context('spawn')."
            )
        self._lock.acquire()
        self._used = True

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _after_fork(self) -> None:
        self._inherited = self._used


# Held by whatever runs graphs: calls of pipelines, samplers and networks, steps, the codec.
device_lock = DeviceLock()
_applied: RuntimeConfig | None = None  # the configuration of the first call of `setup`


def setup(config: RuntimeConfig) -> Rank:
    """Apply `config` to this process, and log what it stands for. Call it before any tensor.

    Later calls may change mode, precision and level, but not the device, its memory limit or
    `distributed`.

    Raises ValueError for an unknown device, precision or level, a device that this machine does not
    have, a precision without kernels on the device, or a later change of a fixed setting.
    """
    global _applied
    config = config.resolved()
    ms.set_context(mode=ms.GRAPH_MODE if config.graph else ms.PYNATIVE_MODE)
    if _applied is None:
        _set_device(config)
        _applied = config
        logger.info("Running on %s in %s.", config.device, config.precision)
    _check_fixed(config, _applied)
    if config.graph:
        _set_fusion(config)
    if not config.distributed:
        return Rank()
    return Rank(communication.get_rank(), communication.get_group_size())


def find_device() -> str:
    """The device that `auto` stands for: Ascend, GPU or CPU.

    MindSpore's own default is the device for which it has a working plugin. A machine may have the
    plugin and its libraries, and no such device.
    """
    target: str = ms.get_context("device_target")
    if target == "CPU":
        return target
    try:
        count = getattr(ms.device_context, target.lower()).device_count()
    except RuntimeError:
        count = 0
    return target if count > 0 else "CPU"


def compute_dtype(precision: str) -> ms.Type:
    """The dtype of matrix products and convolutions under `precision`."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {sorted(PRECISIONS)}, got {shown(precision)}."
        )
    warn_if_slow(PRECISIONS[precision])
    return PRECISIONS[precision]


def warn_if_slow(dtype: ms.Type) -> None:
    """Log a warning, once in a process, where `dtype` takes longer than float32 does."""
    if dtype == ms.float16 and ms.get_context("device_target") == "CPU":
        _warn_of_float16()


@functools.cache
def _warn_of_float16() -> None:
    logger.warning(
        "float16 takes about 2.5 times as long as float32 on a CPU: take "
        "`runtime.precision=float32`, or in Python `mindspore_dtype=mindspore.float32`."
    )


def check_precision(precision: str, device: str, key: str = "runtime.precision") -> None:
    """Raise ValueError, naming `key`, for a precision that is unknown or missing on `device`."""
    if precision not in PRECISIONS:
        raise ValueError(f"`{key}` must be one of {sorted(PRECISIONS)}, got {shown(precision)}.")
    if device == "CPU" and precision == "bfloat16":
        raise ValueError(
            f"`{key}` bfloat16 has no CPU kernels in MindSpore; use float32 or float16."
        )


def compiles_cells() -> bool:
    """Whether cells run as whole graphs; MindSpore's default is operator by operator."""
    return bool(ms.get_context("mode") == ms.GRAPH_MODE)


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
    _keep_float32(config.device)
    ms.set_recursion_limit(10000)
    if config.memory_limit_gb > 0:
        ms.runtime.set_memory(max_size=f"{config.memory_limit_gb}GB")
    if not config.distributed:
        return
    end_with_launcher()  # before `init`, from which MindSpore's scheduler does not return
    if config.device == "CPU" and os.environ.get("MS_ROLE") == "MS_WORKER":
        # How long an exchange waits for the slowest rank, which compiles the first step minutes
        # after the others where they share processors; MindSpore gives up after 30 s.
        os.environ.setdefault("MS_NODE_TIMEOUT", str(_CPU_EXCHANGE_SECONDS))
    try:
        communication.init()
    except RuntimeError as error:
        if "MS_ROLE" in os.environ:  # set by msrun, so the cause is a different one
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"`runtime.distributed` needs a start by msrun: {reason}") from error
    ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True)


def _keep_float32(device: str) -> None:
    """Convolutions of float32 at full precision: by default they round to 10 bits of mantissa.

    What was chosen before `setup` stays: an Ascend takes one choice per process.
    """
    if device == "Ascend":
        with contextlib.suppress(RuntimeError):
            ms.device_context.ascend.op_precision.conv_allow_hf32(False)
    elif device == "GPU":
        ms.device_context.gpu.op_precision.conv_allow_tf32(False)


def _set_fusion(config: RuntimeConfig) -> None:
    if config.device != "CPU":
        ms.set_context(jit_config={"jit_level": config.jit_level})
    elif config.jit_level == "O1" and importlib.util.find_spec("decorator"):
        # AKG, which compiles the fused kernels, looks for a table of tilings, and prints "Please
        # set tiling repo path" for each kernel unless the table lies under the working directory:
        # kernels would depend on where a process was started. What does not end in .json is no
        # table, and AKG then chooses a tiling itself.
        os.environ.setdefault("MS_GRAPH_KERNEL_TILING", os.devnull)
        _set_quietly(enable_graph_kernel=True, graph_kernel_flags=_CPU_FUSION_FLAGS)
    elif ms.get_context("enable_graph_kernel"):  # set by an earlier call
        _set_quietly(enable_graph_kernel=False)


def _set_quietly(**settings: Any) -> None:
    """Apply settings without MindSpore's warning; they are deprecated, with no others on a CPU."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        ms.set_context(**settings)
    finally:
        logging.disable(before)
