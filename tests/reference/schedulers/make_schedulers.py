"""Make io.npz: runs of diffusers' schedulers over a denoiser that is a formula.

python tests/reference/schedulers/make_schedulers.py   (needs torch and diffusers)

`<case>/timesteps` and `<case>/x` for each case of cases.json: a scheduler, its settings, the number
of steps (or the timesteps), the strength (below 1: `start` noised), eta, and the noise of each step
from numpy's generators of the seeds 5 and 6, one per sample.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

FOLDER = Path(__file__).parent
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
BETAS["beta_schedule"] = "linear"
SHAPE = (2, 4, 1, 3, 3)


def denoise(x: np.ndarray, t: float, bias: np.ndarray) -> np.ndarray:
    """A smooth function of sample and time, bounded as noise is."""
    return (0.7 * x / np.sqrt(1 + x * x) + 0.1 * np.sin(t / 300) + 0.1 * bias).astype(np.float32)


def run(case: dict[str, Any], start: np.ndarray, noise: np.ndarray) -> tuple[Any, Any]:
    kind = getattr(diffusers, case["scheduler"])
    scheduler = kind(**BETAS, **case.get("settings", {}))
    generators = [np.random.default_rng(seed) for seed in (5, 6)]

    def draw(shape: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
        rows = [generator.standard_normal((1, *shape[1:])) for generator in generators]
        return torch.tensor(np.concatenate(rows), dtype=dtype)

    module = sys.modules[kind.__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = draw
    if "timesteps" in case:
        scheduler.set_timesteps(timesteps=case["timesteps"])
    else:
        scheduler.set_timesteps(case["steps"])
    timesteps, x = scheduler.timesteps, torch.from_numpy(noise) * scheduler.init_noise_sigma
    if "strength" in case:
        first = (case["steps"] - int(case["steps"] * case["strength"])) * scheduler.order
        timesteps = timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        both = torch.from_numpy(start), torch.from_numpy(noise)
        x = scheduler.add_noise(*both, timesteps[:1].repeat(len(start)))
    takes_eta = "eta" in inspect.signature(scheduler.step).parameters
    options = {"eta": case.get("eta", 0.0)} if takes_eta else {}
    for t in timesteps:
        scaled = scheduler.scale_model_input(x, t).numpy()
        output = torch.from_numpy(denoise(scaled, float(t), start))
        x = scheduler.step(output, t, x, return_dict=False, **options)[0]
    return timesteps.numpy(), x.numpy()


def main() -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(SHAPE, np.float32) for name in ("start", "noise")}
    inputs = dict(arrays)
    cases = json.loads((FOLDER / "cases.json").read_text())
    for name, case in cases.items():
        timesteps, x = run(case, **inputs)
        arrays |= {f"{name}/timesteps": timesteps, f"{name}/x": x}
    np.savez_compressed(FOLDER / "io.npz", **arrays)


if __name__ == "__main__":
    main()
