"""Where a run takes place: its machines, as job schedulers and clouds name them, and their devices.

The variables are those of slurm (https://slurm.schedmd.com/srun.html, output environment) and of
ModelArts' training jobs, which OpenI's Ascend clusters set, too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MASTER_ALONE = "127.0.0.1"
# What limits the devices that a process sees -> names of their files.
_DEVICES = {"ASCEND_RT_VISIBLE_DEVICES": r"davinci\d+", "CUDA_VISIBLE_DEVICES": r"nvidia\d+"}


@dataclass(frozen=True)
class Machines:
    """The machines of a run as one of them sees them."""

    count: int = 1
    index: int = 0  # of this machine, from 0
    master: str = _MASTER_ALONE  # host name or IPv4 address of machine 0, where the scheduler runs

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"The number of machines must be at least 1, got {self.count}.")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"The index of this machine must be from 0 to {self.count - 1}, got {self.index}."
            )
        if not self.master:
            raise ValueError("The host name or address of machine 0 must not be empty.")


def from_slurm(variables: Mapping[str, str]) -> Machines:
    """The machines of a slurm job step, which runs one task on each of them.

    Raises ValueError where a variable is missing or several tasks run on a machine.
    """
    count = _number(variables, "SLURM_NNODES", "start this by srun")
    index = _number(variables, "SLURM_NODEID", "start this by srun")
    tasks = _number(variables, "SLURM_NTASKS", "start this by srun")
    if tasks != count:
        raise ValueError(
            f"slurm must start one task on each machine (--ntasks-per-node=1), got {tasks} tasks "
            f"on {count} machines (SLURM_NTASKS, SLURM_NNODES)."
        )
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
    if not nodes:
        raise ValueError("SLURM_JOB_NODELIST is not set: start this by srun.")
    return Machines(count, index, _MASTER_ALONE if count == 1 else first_host(nodes))


def first_host(nodes: str) -> str:
    """The first name of slurm's list of hosts: `node03` of `node[03-05,9],other`."""
    name = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes)
    return name.partition(",")[0]


def from_modelarts(variables: Mapping[str, str]) -> Machines:
    """The machines of a training job of ModelArts; one where its variables are not set.

    Raises ValueError where they do not fit together.
    """
    hosts = [host for host in variables.get("VC_WORKER_HOSTS", "").split(",") if host]
    if len(hosts) < 2:
        return Machines()
    index = _number(variables, "VC_TASK_INDEX", "VC_WORKER_HOSTS names several machines")
    stated = variables.get("MA_NUM_HOSTS", str(len(hosts)))
    if stated != str(len(hosts)):
        raise ValueError(
            f"MA_NUM_HOSTS (={stated}) must be the number of names in VC_WORKER_HOSTS, "
            f"which are {len(hosts)}."
        )
    return Machines(len(hosts), index, hosts[0])


def count_devices(variables: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """The number of Ascends, or else GPUs, that a process on this machine may use; 0 for none.

    The variables that limit what is visible count before the files in `devices`.
    """
    if variables.get("MA_NUM_GPUS", "0") != "0":  # ModelArts counts its Ascends under this name
        return _number(variables, "MA_NUM_GPUS", "it is empty")
    for limit, pattern in _DEVICES.items():
        if text := variables.get(limit, ""):
            return _listed(text)
        found = devices.iterdir() if devices.is_dir() else ()
        if count := sum(re.fullmatch(pattern, path.name) is not None for path in found):
            return count
    return 0


def _listed(text: str) -> int:
    """The length of a list of devices such as `0,1,4-7`, or of names; 0 for -1, which is none."""
    total = 0
    if text.strip() == "-1":
        return 0
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*(\d+)-(\d+)\s*", part)
        total += int(numbers[2]) - int(numbers[1]) + 1 if numbers else bool(part.strip())
    return total


def _number(variables: Mapping[str, str], name: str, reason: str) -> int:
    text = variables.get(name, "")
    if not text:
        raise ValueError(f"{name} is not set: {reason}.")
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, got {text!r}.")
    return int(text)
