"""The process on the device, in compiled graphs, against float64 numpy."""

from collections.abc import Callable

import numpy as np
import pytest

from latte_ms.diffusion.process import DiffusionProcess, ScheduleTable, coefficient_table
from latte_ms.diffusion.schedule import Schedule

BOUND = 1e-5  # float32, relative to the largest value
SHAPE = (4, 2, 3, 4, 4)
INDEX = np.array([0, 1, 500, 999])
Compiled = Callable[..., object]


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(SHAPE) for _ in range(3)]


def column(table: np.ndarray) -> np.ndarray:
    return np.asarray(table)[INDEX].reshape(-1, 1, 1, 1, 1)


def close(value: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(value - expected).max() <= BOUND * np.abs(expected).max())


def test_q_sample(compiled: Compiled, arrays: list[np.ndarray]) -> None:
    x0, noise, _ = arrays
    chain = Schedule.create()
    x_t = compiled(DiffusionProcess(chain), "q_sample", x0, noise, INDEX)
    alpha_bar = column(chain.alphas_cumprod)
    assert close(x_t, np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * noise)


def test_posterior(compiled: Compiled, arrays: list[np.ndarray]) -> None:
    x0, x_t, _ = arrays
    chain = Schedule.create()
    mean = compiled(DiffusionProcess(chain), "q_posterior_mean", x0, x_t, INDEX)
    weights = column(chain.posterior_mean_coef1), column(chain.posterior_mean_coef2)
    assert close(mean, weights[0] * x0 + weights[1] * x_t)
    log_variance = coefficient_table(chain, "learned_range")["posterior_log_variance"]
    np.testing.assert_array_equal(log_variance, chain.posterior_log_variance_clipped)


def test_network_sees_training_timesteps(compiled: Compiled) -> None:
    chain = Schedule.create(respacing="5")
    steps = compiled(DiffusionProcess(chain), "timesteps", np.array([0, 3, 4]))
    assert steps.dtype == np.int32
    assert steps.tolist() == [0, 749, 999]


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize("clip", [False, True])
def test_prediction_gives_clean_sample_and_noise(
    compiled: Compiled, arrays: list[np.ndarray], prediction: str, clip: bool
) -> None:
    x_t, predicted, _ = arrays
    chain = Schedule.create()
    process = DiffusionProcess(chain, prediction=prediction, clip_denoised=clip)
    x0, eps = compiled(process, "to_x0_and_eps", predicted, x_t, INDEX)
    alpha_bar = column(chain.alphas_cumprod)
    expected = predicted
    if prediction == "epsilon":
        expected = (x_t - np.sqrt(1 - alpha_bar) * predicted) / np.sqrt(alpha_bar)
    expected = np.clip(expected, -1, 1) if clip else expected
    assert close(x0, expected)
    noise = (x_t - np.sqrt(alpha_bar) * expected) / np.sqrt(1 - alpha_bar)
    assert close(eps, noise)


def test_learned_variance_lies_between_its_bounds(
    compiled: Compiled, arrays: list[np.ndarray]
) -> None:
    x_t, predicted, values = arrays
    chain = Schedule.create()
    output = np.concatenate([predicted, values], 2)
    result = compiled(DiffusionProcess(chain), "p_mean_variance", output, x_t, INDEX)
    _, variance, log_variance, _ = result
    low, high = column(chain.posterior_log_variance_clipped), column(np.log(chain.betas))
    share = (values + 1) / 2
    expected = share * high + (1 - share) * low
    assert close(log_variance, expected)
    assert close(variance, np.exp(expected))
    # Relative to each value, not to the largest: a fused exponential is wrong by 3e-4.
    assert np.abs(variance / np.exp(expected) - 1).max() <= 1e-5


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_fixed_variances(compiled: Compiled, arrays: list[np.ndarray], variance: str) -> None:
    x_t, predicted, _ = arrays
    chain = Schedule.create()
    process = DiffusionProcess(chain, variance=variance)
    _, value, log_value, _ = compiled(process, "p_mean_variance", predicted, x_t, INDEX)
    first = chain.posterior_variance[1]
    table = chain.posterior_variance if variance == "fixed_small" else chain.betas
    # Only the large variance replaces its value at index 0; the logarithm is always clamped.
    at_zero = 0 if variance == "fixed_small" else first
    assert value.shape == log_value.shape == SHAPE
    assert close(value, np.broadcast_to(column(np.append(at_zero, table[1:])), SHAPE))
    assert close(log_value, np.broadcast_to(np.log(column(np.append(first, table[1:]))), SHAPE))


def test_the_table_is_rounded_once() -> None:
    """Computed in float32, 1 - alpha_bar loses two digits at step 0 and the weights with it."""
    chain = Schedule.create()
    cell = ScheduleTable(coefficient_table(chain, "learned_range"))
    rows = dict(zip(cell.names, cell.rows.asnumpy(), strict=True))
    assert rows["noise"].dtype == np.float32
    assert rows["noise"][0] == np.float32(np.sqrt(1 - chain.alphas_cumprod[0]))
    assert rows["x0_to_eps"][0] == np.float32(1 / np.sqrt(1 / chain.alphas_cumprod[0] - 1))
    rounded = np.float32(1) - np.float32(chain.alphas_cumprod[0])
    assert abs(np.sqrt(rounded) / rows["noise"][0] - 1) > 1e-5
    assert rows["signal"][-1] == np.float32(np.sqrt(chain.alphas_cumprod[-1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": "v"}, r"`prediction` must be one of \['epsilon', 'x0'\], got 'v'"),
        ({"variance": "learned"}, "`variance` must be one of .* got 'learned'"),
    ],
)
def test_unknown_options_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionProcess(Schedule.create(), **arguments)


def test_output_channels_must_fit_the_variance(
    compiled: Compiled, arrays: list[np.ndarray]
) -> None:
    x_t, predicted, _ = arrays
    process = DiffusionProcess(Schedule.create())
    with pytest.raises(ValueError, match=r"must have 6 channels for samples of 3 .* got 3"):
        compiled(process, "p_mean_variance", predicted, x_t, INDEX)
