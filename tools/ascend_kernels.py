"""Which kernels an Ascend would run our graphs with, seen on a machine without one.

    python tools/ascend_kernels.py                      # all graphs
    python tools/ascend_kernels.py --graph latte train  # some of them
    python tools/ascend_kernels.py --study              # a step of each design choice of the paper

MindSpore's own Ascend compiler and kernel selector run in simulation, on stand-ins for the CANN
libraries (`tools/ascend_stand_ins.py`). Nothing is computed, so nothing here tells of speed or
numbers. The exit status is 0 when every graph compiles and every kernel is aclnn (Ascend's fast
path) or hccl (communication), apart from the primitives that `ALLOWED` names.

Needs x86-64 Linux with gcc and binutils; tried with MindSpore 2.7.2, 2.8.0 and 2.10.0.
"""

import argparse
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import ascend_stand_ins

GRAPHS_SCRIPT = Path(__file__).with_name("ascend_graphs.py")
DEVICES = 8  # of the simulated cluster, for graphs that communicate
FAST = {"aclnn", "hccl"}


@dataclass(frozen=True)
class Allowance:
    """A primitive that may be off the fast path: how often one graph may launch it, and why."""

    fused: int  # at O1, which users get
    unfused: int  # at O0
    reason: str


ALLOWED = {
    "AddN": Allowance(
        1,
        64,
        "sums the gradients of a value with several users; MindSpore's differentiator inserts it, "
        "and at jit level O1 takes it into fused kernels",
    ),
    "TensorMove": Allowance(
        4,
        4,
        "copies the weight and the bias of the patch embedding, which a training step reads before "
        "and after another parameter is written; MindSpore inserts it to keep that order",
    ),
}

# The selector reports a primitive's kind once, and every kernel by the name of its node. Then at
# O1 elementwise kernels are fused, and what is left is built to be launched.
SELECTED = re.compile(r"\] (\w+) select (\w+) kernel")
BUILT = re.compile(r"GenerateKernelBuildInfo\] (\S+?)(?:-op\w*)? input_num")
LAUNCHED = re.compile(r"GenerateKernelMod\] kernel opname:(\w+), kernel type:(\w+)")
KINDS = {
    "opapi_kernel": "aclnn",
    "akg_kernel": "fused",
    "hccl_kernel": "hccl",
    "rt_kernel": "view",
    "acl_kernel": "aclop",
}
PEAK = re.compile(r"Actual peak memory usage \(with fragments\): (\w+)")
FINISHED = "COMPILED AND STEPPED THROUGH"
CACHE = Path.home() / ".cache" / "latte_ms_ascend"


@dataclass(frozen=True)
class Report:
    """What was selected for one graph."""

    graph: str
    kinds: dict[str, set[str]]  # primitive -> kinds of kernel
    counts: Counter[str]  # primitive -> kernels that were selected, before and after fusion
    launches: Counter[str]  # primitive -> kernels of its own that are launched, after fusion
    launched: Counter[str]  # kind -> kernels that are launched, after fusion
    memory: str  # device memory that the allocator planned, without workspaces
    failure: str  # why the graph did not compile to its end; empty if it did
    level: str  # jit level

    @property
    def slow(self) -> list[str]:
        """Primitives that are not on the fast path and have no reason not to be."""
        return sorted(
            name for name, kinds in self.kinds.items() if kinds - FAST and not self._allows(name)
        )

    @property
    def accepted(self) -> bool:
        return not self.failure and not self.slow and bool(self.kinds)

    def _allows(self, name: str) -> bool:
        if name not in ALLOWED:
            return False
        most = ALLOWED[name].unfused if self.level == "O0" else ALLOWED[name].fused
        return self.launches[name] <= most

    def table(self) -> str:
        launched = ", ".join(f"{n} {kind}" for kind, n in self.launched.most_common())
        rows = [
            f"graph {self.graph}: {sum(self.counts.values())} kernels, memory {self.memory}; "
            f"launched: {launched or 'unknown'}"
        ]
        order = sorted(self.kinds, key=lambda name: (sorted(self.kinds[name]), name))
        for name in order:
            kinds = "/".join(sorted(self.kinds[name]))
            note = ""
            if self.kinds[name] - FAST:
                note = "  allowed" if self._allows(name) else "  SLOW"
            counts = f"{self.counts[name]:5} selected {self.launches[name]:5} launched"
            rows.append(f"  {kinds:6} {name:24} {counts}{note}")
        views = sorted(set(self.counts) - set(self.kinds))
        rows += [f"  {'view':6} {name:24} {self.counts[name]:5}" for name in views]
        if self.failure:
            rows.append(f"  FAILED: {self.failure}")
        return "\n".join(rows)


def stand_ins(cache: Path) -> Path:
    """The folder of stand-ins for this MindSpore, built on first use."""
    folder = cache / f"mindspore-{version('mindspore')}"
    done = folder / "complete"
    if not done.exists():
        print(f"Building stand-ins for the CANN libraries in {folder} (20 seconds).", flush=True)
        ascend_stand_ins.build(_site_packages(), folder)
        done.touch()
    return folder


def simulate(graph: str, level: str, folder: Path) -> Report:
    """Compile one graph in a process of its own and read what was selected."""
    run = subprocess.run(
        [sys.executable, str(GRAPHS_SCRIPT), graph, level],
        env=environment(folder, parallel=graph.endswith("-parallel")),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return read_log(graph, run.stdout.decode(errors="replace"), run.returncode, level)


def read_log(graph: str, log: str, status: int, level: str = "O1") -> Report:
    """The report of one simulation from its log, exit status and jit level."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for name, kind in SELECTED.findall(log):
        kinds[name].add(kind)
    counts = Counter(path.rsplit("/", 1)[-1] for path in BUILT.findall(log))
    peaks = PEAK.findall(log)
    failure = ""
    if FINISHED not in log:
        errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", log, re.M)
        failure = errors[-1][:300] if errors else f"the process ended with status {status}"
    launches = LAUNCHED.findall(log)
    launched = Counter(KINDS.get(kind, kind) for _, kind in launches)
    memory = peaks[-1] if peaks else "unknown"
    by_name = Counter(name for name, _ in launches)
    return Report(graph, dict(kinds), counts, by_name, launched, memory, failure, level)


def environment(folder: Path, parallel: bool) -> dict[str, str]:
    """The variables of a process for which the stand-ins in `folder` are an Ascend."""
    package = str(Path(__file__).resolve().parents[1])
    paths = filter(None, [os.environ.get("PYTHONPATH")])
    return os.environ | {
        "MS_SIMULATION_LEVEL": "1",
        "GLOG_v": "1",
        "RANK_SIZE": str(DEVICES if parallel else 1),
        "RANK_ID": "0",
        "ASCEND_HOME_PATH": str(folder / "cann"),
        "LD_LIBRARY_PATH": str(folder / "cann" / "lib64"),
        "PYTHONPATH": os.pathsep.join((str(folder / "python"), package, *paths)),
    }


def _site_packages() -> Path:
    """Where MindSpore is installed; it is not imported here, for it would load the real plugin."""
    spec = importlib.util.find_spec("mindspore")
    if spec is None or spec.origin is None:
        raise SystemExit("MindSpore is not installed in this environment.")
    return Path(spec.origin).parents[1]


def graph_names() -> list[str]:
    """Names of the graphs, read without importing MindSpore."""
    text = GRAPHS_SCRIPT.read_text(encoding="utf-8")
    return re.findall(r'^    "([\w-]+)": ', text[text.index("GRAPHS:") :], re.M)


def study_names() -> list[str]:
    """Names of the graphs of all combinations of the paper's design choices."""
    choices = itertools.product(
        ("1", "2", "3", "4"),
        ("uniform", "compression"),
        ("adaln", "tokens"),
        ("absolute", "rotary_temporal", "rotary"),
    )
    return ["-".join(("study", *choice)) for choice in choices]


def main() -> int:
    names = graph_names()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--graph", nargs="+", choices=names + study_names(), default=names, metavar="NAME"
    )
    chosen.add_argument("--study", action="store_true", help="all combinations of design choices")
    parser.add_argument("--jit-level", choices=("O0", "O1"), default="O1")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    folder = stand_ins(options.cache.resolve())
    reports = []
    for name in study_names() if options.study else options.graph:
        reports.append(simulate(name, options.jit_level, folder))
        print(reports[-1].table(), flush=True)
    used = {name for report in reports for name in report.kinds} & set(ALLOWED)
    for name in sorted(used):
        print(f"allowed: {name} {ALLOWED[name].reason}.")
    bad = [report.graph for report in reports if not report.accepted]
    print(f"not accepted: {', '.join(bad)}" if bad else "all graphs accepted")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
