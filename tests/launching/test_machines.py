"""Machines and devices of a run, from the variables of slurm and ModelArts."""

from pathlib import Path

import pytest

from latte_ms.launching.machines import (
    Machines,
    count_devices,
    first_host,
    from_modelarts,
    from_slurm,
)

SLURM = {
    "SLURM_NNODES": "3",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_JOB_NODELIST": "ascend[07-08,11]",
}
CLOUD = {"VC_WORKER_HOSTS": "w-0.job,w-1.job", "VC_TASK_INDEX": "1", "MA_NUM_HOSTS": "2"}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("one", "one"),
        ("a,b", "a"),
        ("node[03-05,9],other", "node03"),
        ("rack[1-2]n[4,6]", "rack1n4"),
        ("n-[12].cluster,x", "n-12.cluster"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_machines_of_a_slurm_job() -> None:
    assert from_slurm(SLURM) == Machines(3, 2, "ascend07")
    alone = {**SLURM, "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NTASKS": "1"}
    assert from_slurm(alone) == Machines()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_NODEID": ""}, "SLURM_NODEID is not set: start this by srun"),
        ({"SLURM_NNODES": "two"}, "SLURM_NNODES must be a whole number, got 'two'"),
        ({"SLURM_NTASKS": "24"}, "one task on each machine .*, got 24 tasks on 3 machines"),
        ({"SLURM_NODEID": "3"}, "index of this machine must be from 0 to 2, got 3"),
        ({"SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST is not set"),
    ],
)
def test_what_slurm_did_not_give_is_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_slurm({**SLURM, **change})


def test_machines_of_a_job_of_modelarts() -> None:
    assert from_modelarts(CLOUD) == Machines(2, 1, "w-0.job")
    assert from_modelarts({}) == from_modelarts({"VC_WORKER_HOSTS": "w-0"}) == Machines()
    with pytest.raises(ValueError, match="VC_TASK_INDEX is not set: VC_WORKER_HOSTS names several"):
        from_modelarts({"VC_WORKER_HOSTS": "a,b"})
    with pytest.raises(ValueError, match=r"MA_NUM_HOSTS \(=4\) must be the number .* which are 2"):
        from_modelarts({**CLOUD, "MA_NUM_HOSTS": "4"})


def test_devices_are_counted(tmp_path: Path) -> None:
    assert count_devices({}, tmp_path) == count_devices({}, tmp_path / "none") == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_devices({}, tmp_path) == 2
    assert count_devices({"CUDA_VISIBLE_DEVICES": "GPU-5fa"}, tmp_path) == 1
    for name in ("davinci0", "davinci3", "davinci15", "davinci_manager"):
        (tmp_path / name).touch()
    assert count_devices({}, tmp_path) == 3
    assert count_devices({"ASCEND_RT_VISIBLE_DEVICES": "0,2-4"}, tmp_path) == 4
    assert count_devices({"MA_NUM_GPUS": "8"}, tmp_path) == 8
    assert count_devices({"MA_NUM_GPUS": "0"}, tmp_path) == 3
    assert count_devices({"ASCEND_RT_VISIBLE_DEVICES": "-1"}, tmp_path) == 0
