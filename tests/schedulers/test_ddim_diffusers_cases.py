"""diffusers' own test cases for DDIM, Latte's scheduler, with their inputs, sums and bounds.

`docs/porting_t2v.md` names them. Sums and means are of absolute values.
"""

from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import schedulers

SETTINGS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
}
STEPS, BATCH = 10, 4
SHAPE = (3, 8, 8)  # of one sample
SUM, MEAN = 1e-2, 1e-3


def ramp(reverse: bool = False) -> np.ndarray:
    """0, 1/n, 2/n, ... along (C, H, W, B), with the batch axis moved to the front."""
    count = BATCH * int(np.prod(SHAPE))
    values = np.arange(count, dtype=np.float32)
    values = (values[::-1] if reverse else values) / np.float32(count)
    return np.ascontiguousarray(values.reshape(*SHAPE, BATCH).transpose(3, 0, 1, 2))


def run(scheduler: Any, sample: np.ndarray, first: int = 0) -> np.ndarray:
    """All steps from index `first` on, with x t / (t + 1) in place of a network."""
    x = Tensor(sample)
    for t in scheduler.timesteps.asnumpy()[first:].tolist():
        output = Tensor(x.asnumpy() * np.float32(t / (t + 1)))
        x = scheduler.step(output, t, x, eta=0.0, return_dict=False)[0]
    return x.asnumpy()


def ddim(**settings: Any) -> Any:
    scheduler = schedulers.create("ddim", SETTINGS, **settings)
    schedulers.set_steps(scheduler, STEPS)
    return scheduler


@pytest.mark.parametrize(
    ("settings", "total", "mean"),
    [
        pytest.param({}, 172.0067, 0.223967, id="full_loop_no_noise"),
        pytest.param(
            {"prediction_type": "v_prediction"}, 52.5302, 0.0684, id="full_loop_with_v_prediction"
        ),
        pytest.param(
            {"set_alpha_to_one": True, "beta_start": 0.01},
            149.8295,
            0.1951,
            id="full_loop_with_set_alpha_to_one",
        ),
        pytest.param(
            {"set_alpha_to_one": False, "beta_start": 0.01},
            149.0784,
            0.1941,
            id="full_loop_with_no_set_alpha_to_one",
        ),
    ],
)
def test_full_loop(settings: dict[str, Any], total: float, mean: float) -> None:
    result = np.abs(run(ddim(**settings), ramp()))
    assert abs(result.sum() - total) < SUM
    assert abs(result.mean() - mean) < MEAN


def test_full_loop_with_noise() -> None:
    """The last two of ten steps, from the sample with the noise of the first of them."""
    scheduler, first = ddim(), 8
    start = scheduler.timesteps.asnumpy()[first : first + 1]
    noisy = scheduler.add_noise(Tensor(ramp()), Tensor(ramp(reverse=True)), Tensor(start))
    result = np.abs(run(scheduler, noisy.asnumpy(), first))
    assert abs(result.sum() - 354.5418) < SUM
    assert abs(result.mean() - 0.4616) < MEAN


@pytest.mark.parametrize(
    ("timestep", "previous", "expected"),
    [
        (0, 0, 0.0),
        (420, 400, 0.14771),
        (980, 960, 0.32460),
        (487, 486, 0.00979),
        (999, 998, 0.02),
    ],
)
def test_variance(timestep: int, previous: int, expected: float) -> None:
    result = schedulers.create("ddim", SETTINGS)._get_variance(timestep, previous)
    assert abs(float(result) - expected) < 1e-5


def test_steps_offset() -> None:
    steps = schedulers.set_steps(schedulers.create("ddim", SETTINGS, steps_offset=1), 5)
    assert steps.timesteps == (801, 601, 401, 201, 1)
