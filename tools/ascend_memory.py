"""The memory of an Ascend that MindSpore plans for a training step of a `Latte` at full size.

    python tools/ascend_memory.py                              # every block as it is, or recomputed
    python tools/ascend_memory.py --depth 12 --recompute 0 6 12

Compiles the step as `tools/ascend_kernels.py` does, in simulation: nothing is computed. Prints the
peak of what the allocator gives to weights, gradients, optimizer, averages and activations;
workspaces of kernels are not in it. 28 blocks take minutes and up to 20 GB of this machine's
memory each time.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.ascend_kernels import CACHE, FINISHED, PEAK, environment, stand_ins

_SHAPE = (16, 4, 32, 32)  # of a clip's latents: 16 frames of 256 x 256 pixels
_PER_GB = {"M": 1024.0, "G": 1.0}


def main() -> int:
    args = parse_arguments()
    if args.one:
        compile_step(args)
        return 0
    folder = stand_ins(args.cache.resolve())
    print("| blocks | recomputed | batch | precision | planned memory | compiled in |")
    print("|---|---|---|---|---|---|", flush=True)
    failed = 0
    for count in args.recompute:
        begin = time.monotonic()
        peak = planned(args, count, folder)
        failed += not peak
        shown = f"{peak:.1f} GB" if peak else "none"
        minutes = (time.monotonic() - begin) / 60
        cells = (args.depth, count, args.batch_size, args.precision, shown, f"{minutes:.0f} min")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return int(failed > 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="Latte-XL/2")
    parser.add_argument("--depth", type=int, default=28, help="blocks")
    parser.add_argument("--batch-size", type=int, default=5, help="clips")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--recompute", type=int, nargs="+", help="blocks (default: none, all)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of the stand-ins for CANN")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.recompute = args.recompute or [0, args.depth]
    if args.depth < 1 or args.batch_size < 1:
        parser.error("--depth and --batch-size must be at least 1")
    if not all(0 <= count <= args.depth for count in args.recompute):
        parser.error(f"--recompute must be from 0 to {args.depth}, got {args.recompute}")
    return args


def planned(args: argparse.Namespace, recompute: int, folder: Path) -> float:
    """GB, from the log of a process that compiles the step; 0 if it fails, with its end printed."""
    options = [f"--depth={args.depth}", f"--batch-size={args.batch_size}"]
    options += [f"--preset={args.preset}", f"--precision={args.precision}"]
    command = [sys.executable, __file__, "--one", f"--recompute={recompute}", *options]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        subprocess.run(
            command,
            env=environment(folder, parallel=False),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
        log.seek(0)
        peak, finished, last = 0.0, False, ""
        for line in log:
            finished, last = finished or FINISHED in line, line.strip() or last
            for number, unit in re.findall(PEAK.pattern.replace(r"(\w+)", r"(\d+)([MG])"), line):
                peak = float(number) / _PER_GB[unit]
    if not finished:
        print(last, file=sys.stderr)
    return peak if finished else 0.0


def compile_step(args: argparse.Namespace) -> None:
    """Compile the step for the simulated device of this process, and step through it."""
    # MindSpore chooses its device when it is imported.
    import mindspore as ms

    from latte_ms import runtime
    from latte_ms.training.optimizer import step_factors
    from latte_ms.training.recompute import recompute_first
    from latte_ms.transformer.configuration import LatteConfig
    from latte_ms.transformer.latte import Latte
    from tools.ascend_graphs import OPTIMIZER, train_step
    from tools.ascend_primitives import integers, normal

    runtime.setup(runtime.RuntimeConfig(device="Ascend", precision=args.precision))
    config = LatteConfig.from_name(
        args.preset, depth=args.depth, conditioning="class", num_classes=101
    )
    network = Latte(config, runtime.compute_dtype(args.precision), None)
    recompute_first(network.blocks, args.recompute[0])
    step = train_step(network)
    x0 = normal(args.batch_size, *_SHAPE)
    indices = integers(*range(args.batch_size))
    step(step_factors(OPTIMIZER, 0).tensor(), x0, x0, indices, y=indices)
    ms.runtime.synchronize()
    print(FINISHED, flush=True)


if __name__ == "__main__":
    sys.exit(main())
