"""Run schedulers with a perfect network, which knows the clean sample, and say where they end.

    python tools/check_schedules.py [--schedulers ddim,pndm] [--counts 1,2,7] \\
        [--spacings trailing] [--whole]

One line per scheduler: the largest distance from the clean sample, relative to its largest value,
over all spacings, offsets and numbers of steps, and how many of these are refused. Runs of more
than 50 steps take their last 8 only, unless `--whole` is given (half an hour on a core). The exit
status is 1 if a run ends further away than 1e-3.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Tensor

from latte_ms import schedulers

BOUND = 1e-3
SPACINGS = ("linspace", "leading", "trailing")
OFFSETS = (0, 1)
COUNTS = (1, 2, 7, 10, 13, 50, 250, 1000)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
SHAPE = (1, 4, 2, 2, 2)
LONG, TAIL = 50, 8  # longer runs begin that many steps before their end


def main() -> int:
    args = parse_arguments()
    failed = False
    for name in args.schedulers:
        worst, refused, runs = 0.0, 0, 0
        for spacing, offset, count in itertools.product(args.spacings, OFFSETS, args.counts):
            settings = {"timestep_spacing": spacing, "steps_offset": offset}
            tail = 1.0 if args.whole or count <= LONG else (TAIL + 0.5) / count
            try:
                error = distance(name, count, strength=tail, **settings)
            except ValueError as refusal:
                refused += 1
                print(f"  {name}: {refusal}")
                continue
            runs += 1
            worst = max(worst, error) if np.isfinite(error) else np.inf
        failed |= worst > BOUND
        print(f"{name}: {worst:.1e} in {runs} runs, {refused} refused", flush=True)
    return int(failed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How far from x0 a perfect network ends.")
    parser.add_argument("--schedulers", type=words, default=list(schedulers.SCHEDULERS))
    parser.add_argument("--spacings", type=words, default=SPACINGS)
    parser.add_argument("--counts", type=lambda text: list(map(int, words(text))), default=COUNTS)
    parser.add_argument("--whole", action="store_true", help="all steps of long runs")
    return parser.parse_args()


def words(text: str) -> list[str]:
    return text.split(",")


def distance(
    name: str,
    count: int = 1,
    *,
    timesteps: Sequence[int] | None = None,
    strength: float = 1.0,
    eta: float = 0.0,
    like_diffusers: bool = False,
    **settings: Any,
) -> float:
    """The distance from the clean sample at which a run with a perfect network ends.

    It is relative to the largest clean value. Raises ValueError where the run is refused.
    """
    rng = np.random.default_rng(0)
    clean = rng.uniform(-1, 1, SHAPE)
    noise = Tensor(rng.standard_normal(SHAPE).astype(np.float32))
    scheduler = schedulers.create(name, BETAS, **settings)
    steps = schedulers.set_steps(scheduler, count, timesteps, strength, like_diffusers)
    x = noise * float(scheduler.init_noise_sigma)
    if strength < 1:
        x = schedulers.add_noise(scheduler, Tensor(clean.astype(np.float32)), noise, steps)
    options = schedulers.step_options(scheduler, eta, [rng])
    for timestep in steps.timesteps:
        scaled = scheduler.scale_model_input(x, timestep).asnumpy()
        output = perfect_output(scheduler, timestep, scaled, clean)
        x = scheduler.step(
            Tensor(output.astype(np.float32)), timestep, x, return_dict=False, **options
        )[0]
    return float(np.abs(x.asnumpy() - clean).max() / np.abs(clean).max())


def perfect_output(scheduler: Any, timestep: float, x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The output of a network for `x` at `timestep`, whose clean sample it knows."""
    signal, deviation = levels(scheduler, timestep)
    noise = (x - signal * clean) / deviation
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return signal * noise - deviation * clean
    return noise if kind == "epsilon" else clean


def levels(scheduler: Any, timestep: float) -> tuple[float, float]:
    """The shares of clean sample and noise in the network's input of the present step."""
    if not hasattr(scheduler, "sigmas"):
        alpha_bar = float(scheduler.alphas_cumprod.asnumpy()[int(timestep)])
        return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    index = scheduler.step_index if scheduler.step_index is not None else scheduler.begin_index
    sigma = float(scheduler.sigmas.asnumpy()[index])
    if not getattr(scheduler, "state_in_first_order", True) and hasattr(scheduler, "sigmas_up"):
        sigma = float(scheduler.sigmas_interpol.asnumpy()[index - 1])  # of DPM2's middle
    if getattr(scheduler.config, "use_flow_sigmas", False):
        return 1 - sigma, sigma
    return 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)


if __name__ == "__main__":
    sys.exit(main())
