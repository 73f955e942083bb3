"""With a network that knows the clean sample, every chain ends there, whatever its respacing."""

from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion.noise import generators
from latte_ms.diffusion.process import coefficient_table
from latte_ms.diffusion.samplers import DDIM, DDPM, DDIMInversion, Run, denoise
from latte_ms.diffusion.schedule import Schedule, respaced_timesteps
from latte_ms.layers import kernels

BOUND = 1e-3  # relative to the largest clean value
SHAPE = (2, 2, 4, 2, 2)
STRIDED = sorted({len(range(0, 1000, stride)) for stride in range(1, 1001)})


class PerfectDenoiser(nn.Cell):
    """The noise in x, whose clean sample is a condition; one value of variance for all."""

    def __init__(self, schedule: Schedule, variance: float | None = None) -> None:
        super().__init__()
        table = np.full((2, schedule.num_train_steps), np.nan)
        alpha_bar = schedule.alphas_cumprod
        table[:, schedule.timestep_map] = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        self.table = Tensor(table.astype(np.float32))
        self.variance = variance

    def construct(self, x: Tensor, t: Tensor, clean: Tensor) -> Tensor:
        signal, deviation = kernels.split(kernels.gather_columns(self.table, t), 1, 0)
        noise = (x - signal.reshape(-1, 1, 1, 1, 1) * clean) / deviation.reshape(-1, 1, 1, 1, 1)
        if self.variance is None:
            return noise
        return kernels.concat((noise, 0.0 * noise + self.variance), 2)


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)


def error(run: Run, clean: np.ndarray) -> float:
    *_, step = denoise(run)
    return float(np.abs(step.x.asnumpy() - clean).max() / np.abs(clean).max())


def run(kind: Any, respacing: str, clean: np.ndarray, **options: Any) -> Run:
    schedule = Schedule.create(respacing=respacing)
    value = options.pop("value", None)
    sampler = kind(PerfectDenoiser(schedule, value), schedule, **options)
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    rngs = generators([3, 4], 2) if sampler.stochastic else None
    return sampler.begin(noise, {"clean": clean}, rngs)


@pytest.mark.parametrize(
    ("kind", "respacing", "options"),
    [
        (DDPM, "1", {"value": 1.0}),
        (DDPM, "10,15,20", {"value": 1.0}),
        (DDIM, "7", {"variance": "fixed_small"}),
        (DDIM, "ddim7", {"variance": "fixed_small", "eta": 1.0}),
    ],
)
def test_runs_end_at_the_clean_sample(
    kind: Any, respacing: str, options: dict[str, Any], clean: np.ndarray
) -> None:
    assert error(run(kind, respacing, clean, **options), clean) <= BOUND


@pytest.mark.extended
@pytest.mark.parametrize("respacing", ["", "2", "250", "333,1,2", "ddim50"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DDPM, {"value": 1.0}),
        (DDPM, {"variance": "fixed_large"}),
        (DDIM, {"variance": "fixed_small"}),
        (DDIM, {"value": 0.0, "eta": 1.0}),
    ],
)
def test_all_respacings(
    kind: Any, respacing: str, options: dict[str, Any], clean: np.ndarray
) -> None:
    assert error(run(kind, respacing, clean, **options), clean) <= BOUND


@pytest.mark.parametrize(
    "respacing",
    ["2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("1", "5,5,3", "ddim25"))],
)
def test_inversion_and_back(respacing: str, clean: np.ndarray) -> None:
    schedule = Schedule.create(respacing=respacing)
    denoiser, conditions = PerfectDenoiser(schedule), {"clean": clean}
    up = DDIMInversion(denoiser, schedule, variance="fixed_small").begin(clean, conditions)
    for _ in denoise(up):
        pass
    down = DDIM(denoiser, schedule, variance="fixed_small").begin(up.x, conditions)
    assert error(down, clean) <= BOUND


@pytest.mark.parametrize("respacings", [range(1, 1001), [f"ddim{count}" for count in STRIDED]])
def test_coefficients_of_all_respacings(respacings: list[str | int]) -> None:
    """A mean lies where the clean sample is at the step's end, and there is no noise at last."""
    for respacing in respacings:
        timesteps = respaced_timesteps(1000, respacing)
        assert (np.diff(timesteps) > 0).all()
        assert timesteps[0] == 0
        assert timesteps[-1] < 1000
        schedule = Schedule.create(respacing=respacing)
        table = coefficient_table(schedule, "fixed_large")
        before = np.sqrt(schedule.alphas_cumprod_prev)
        ends = table["x0_to_mean"] + table["x_to_mean"] * table["signal"]
        np.testing.assert_allclose(ends, before, rtol=1e-9)
        assert (table["x0_to_mean"][0], table["x_to_mean"][0]) == (pytest.approx(1), 0)
        assert (before[0], table["adds_noise"][0]) == (1, False)
        assert all(np.isfinite(column).all() for column in table.values())
