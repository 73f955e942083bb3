"""Measure this code and PyTorch on the same work, alternately: `benchmark.py NAME [NAME ...]`.

    forward   one forward of --preset, batch --batch, 16 frames of 256 x 256
    train     one update (forward, backward, AdamW, EMA) of the same
    t2v       one guided step of Latte-1's text-to-video network, 16 frames of --size x --size
    encode, decode, decode-temporal
              --batch frames of --size x --size through Stable Diffusion's autoencoder, or through
              the temporal decoder
    text      one prompt through the T5 encoder in --folder
    i3d       the features of --batch clips for FVD, 16 frames of --size x --size

Each framework runs in its own process, the two alternate, --rounds times; the ratio is PyTorch's
median over ours, above 1 where this code is faster. `--only ours` leaves PyTorch out.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import benchmark_i3d, benchmark_t2v, benchmark_text, benchmark_vae

VAE_NAMES = ("encode", "decode", "decode-temporal")
NAMES = ("forward", "train", "t2v", *VAE_NAMES, "text", "i3d")
SIDES = ("ours", "torch")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.worker:
        print(json.dumps(measure(options.worker, options.names[0], options)))
        return 0
    results = {}
    for name in options.names:
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        for _ in range(options.rounds):
            for side in options.sides:
                rounds[side].append(in_process(side, name, options))
        results[name] = summarise(rounds)
        report(name, options, results[name])
    if options.json:
        machine = {"processor": platform.processor(), "cores": os.cpu_count()}
        text = json.dumps({"machine": machine, "results": results}, indent=2)
        options.json.write_text(text, encoding="utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--preset", default="Latte-S/2")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--layers", type=int, default=28, help="number of layers, of t2v")
    parser.add_argument(
        "--size", type=int, default=512, help="pixels, of all but forward and train"
    )
    parser.add_argument("--folder", default="", help="of the encoder, of text")
    parser.add_argument("--streamed", action="store_true", help="text: weights stay on disk")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs in each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each framework")
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.sides = (options.only,) if options.only else SIDES
    return options


def in_process(side: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One worker's figures."""
    command = [sys.executable, __file__, name, "--worker", side]
    for key in ("preset", "batch", "layers", "size", "folder", "precision", "device", "repeats"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--streamed"] * options.streamed
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def measure(side: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the first run (compilation included) and of the others, and peak memory."""
    if side == "ours":
        import latte_ms  # noqa: F401  # sets what MindSpore reads when it is imported

    ours_of, torch_of = ours, torch_side
    if name == "t2v":
        ours_of, torch_of = benchmark_t2v.ours, benchmark_t2v.torch_side
    elif name in VAE_NAMES:
        ours_of, torch_of = benchmark_vae.ours, benchmark_vae.torch_side
    elif name == "text":
        ours_of, torch_of = benchmark_text.ours, benchmark_text.torch_side
    elif name == "i3d":
        ours_of, torch_of = benchmark_i3d.ours, benchmark_i3d.torch_side
    run = (ours_of if side == "ours" else torch_of)(name, options)
    seconds = []
    for _ in range(options.repeats + 1):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"first": seconds[0], "seconds": seconds[1:], "peak_gib": peak}


def inputs(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents, noise and timesteps."""
    rng = np.random.default_rng(0)
    shape = (options.batch, 16, 4, 32, 32)
    x, noise = (rng.standard_normal(shape, np.float32) for _ in range(2))
    return x, noise, rng.integers(0, 1000, options.batch, dtype=np.int32)


def ours(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """The work in this package."""
    from mindspore import Tensor

    from latte_ms import runtime
    from latte_ms.diffusion.loss import DiffusionLoss
    from latte_ms.diffusion.schedule import Schedule
    from latte_ms.training.objective import DenoisingObjective
    from latte_ms.training.optimizer import OptimizerConfig, step_factors
    from latte_ms.training.step import TrainStep
    from latte_ms.transformer.configuration import LatteConfig
    from latte_ms.transformer.latte import Latte

    runtime.setup(runtime.RuntimeConfig(options.device, options.precision))
    network = Latte(LatteConfig.from_name(options.preset), runtime.compute_dtype(options.precision))
    x, noise, t = (Tensor(array) for array in inputs(options))
    if name == "forward":
        network.set_train(False)
        return lambda: _read(network(x, t))
    config = OptimizerConfig()
    step = TrainStep(DenoisingObjective(DiffusionLoss(network, Schedule.create())), config)
    step.set_train(True)
    return lambda: _read(step(step_factors(config, 0).tensor(), x, noise, t)[0])


def _read(tensor: Any) -> None:
    """Wait for a result by copying it to the host."""
    tensor.asnumpy()


def torch_side(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """The same work in PyTorch, eager; see `reference_latte`."""
    import torch

    from latte_ms.transformer.configuration import LatteConfig
    from tools.reference_latte import Latte, diffusion_loss

    torch.manual_seed(0)
    config = LatteConfig.from_name(options.preset)
    network = Latte(config)
    x, noise, t = (torch.from_numpy(array) for array in inputs(options))
    if name == "forward":
        network.eval()

        def forward() -> None:
            with torch.no_grad():
                network(x, t)

        return forward
    ema = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0)

    def update() -> None:
        optimizer.zero_grad()
        diffusion_loss(network, x, noise, t).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, list(network.parameters()), 1e-4)

    return update


def summarise(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over all timed runs of each side, and their ratio."""
    summary: dict[str, Any] = {}
    for side, figures in rounds.items():
        timed = [second for figure in figures for second in figure["seconds"]]
        summary[side] = {
            "first": min(figure["first"] for figure in figures),
            "median": statistics.median(timed),
            "fastest": min(timed),
            "slowest": max(timed),
            "peak_gib": max(figure["peak_gib"] for figure in figures),
        }
    if len(summary) == len(SIDES):
        summary["ratio"] = summary["torch"]["median"] / summary["ours"]["median"]
    return summary


def report(name: str, options: argparse.Namespace, summary: dict[str, Any]) -> None:
    title = f"{options.preset}, batch {options.batch}"
    if name == "t2v":
        title = f"{options.layers} layers, 16 x {options.size} x {options.size}"
    elif name in VAE_NAMES:
        title = f"{options.batch} x {options.size} x {options.size}"
    elif name == "text":
        title = "one prompt, " + ("streamed weights" if options.streamed else "16-bit weights")
    elif name == "i3d":
        title = f"{options.batch} clips of 16 x {options.size} x {options.size}"
    print(f"{name}, {title}, {options.precision}:")
    for side in options.sides:
        row = summary[side]
        print(
            f"  {side:6} first {row['first']:7.2f} s   median {row['median']:7.2f} s "
            f"({row['fastest']:.2f} to {row['slowest']:.2f})   peak {row['peak_gib']:.1f} GiB"
        )
    if "ratio" in summary:
        print(f"  PyTorch's median over ours: {summary['ratio']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
