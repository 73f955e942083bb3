"""Tables and respacing in float64, against the reference's and against definitions."""

from pathlib import Path

import numpy as np
import pytest

from latte_ms.diffusion.schedule import Schedule, cosine_betas, respaced_timesteps

BOUND = 1e-12  # float64, relative to the largest value


@pytest.fixture(scope="module")
def tables(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "diffusion" / "io.npz") as data:
        return dict(data)


@pytest.mark.parametrize(
    "name",
    [
        "betas",
        "alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    ],
)
def test_linear_tables_equal_the_reference(tables: dict[str, np.ndarray], name: str) -> None:
    expected = tables[f"sched_{name}"]
    assert np.abs(getattr(Schedule.create(), name) - expected).max() <= BOUND * abs(expected).max()


def test_cosine_betas_equal_the_reference(tables: dict[str, np.ndarray]) -> None:
    assert np.abs(cosine_betas(1000) - tables["betas_cosine"]).max() <= BOUND


@pytest.mark.parametrize("respacing", ["250", "ddim50", "ddim25", "10,15,20"])
def test_respacing_keeps_the_reference_steps(tables: dict[str, np.ndarray], respacing: str) -> None:
    expected = tables["use_timesteps_" + respacing.replace(",", "_")]
    assert respaced_timesteps(1000, respacing) == expected.tolist()


def test_respacing_rounds_a_running_sum_half_to_even() -> None:
    assert respaced_timesteps(6, "3") == [0, 2, 5]  # 2.5 to 2
    assert respaced_timesteps(1000, "5") == [0, 250, 500, 749, 999]  # 499.5 to 500, 749.25 to 749
    # Exactly 499.5 and 832.5: rounding leaves the sum below the first and above the second.
    assert [respaced_timesteps(1000, "43")[i] for i in (21, 35)] == [499, 833]


def test_sections_share_the_remainder_from_the_front() -> None:
    # Ten steps in three sections: 4, 3, 3.
    assert respaced_timesteps(10, "2,2,2") == [0, 3, 4, 6, 7, 9]
    assert respaced_timesteps(10, "1,1,1") == [0, 4, 7]


def test_no_respacing_keeps_every_step() -> None:
    assert respaced_timesteps(30, "") == list(range(30))
    assert respaced_timesteps(30, 30) == list(range(30))


def test_a_respaced_chain_keeps_alpha_bar_at_its_steps() -> None:
    full, short = Schedule.create(), Schedule.create(respacing="10,15,20")
    assert short.num_steps == 45
    assert short.num_train_steps == 1000
    assert short.timestep_map.dtype == np.int64
    alpha_bar = full.alphas_cumprod[short.timestep_map]
    assert np.abs(short.alphas_cumprod - alpha_bar).max() <= BOUND
    assert np.abs(short.alphas_cumprod_prev[1:] - alpha_bar[:-1]).max() <= BOUND
    assert short.alphas_cumprod_prev[0] == 1
    assert short.alphas_cumprod_next[-1] == 0


@pytest.mark.parametrize("respacing", ["", "250", "ddim50", "1"])
def test_posterior_is_the_product_of_both_gaussians(respacing: str) -> None:
    """Bayes: precisions of q(x_t | x_{t-1}) and q(x_{t-1} | x_0) add and weight the means."""
    chain = Schedule.create(respacing=respacing)
    before = chain.alphas_cumprod_prev[1:]
    beta, root = chain.betas[1:], np.sqrt(1 - chain.betas[1:])
    variance = 1 / (root**2 / beta + 1 / (1 - before))
    assert np.allclose(chain.posterior_variance[1:], variance, rtol=1e-9)
    assert np.allclose(chain.posterior_mean_coef1[1:], variance * np.sqrt(before) / (1 - before))
    assert np.allclose(chain.posterior_mean_coef2[1:], variance * root / beta)
    assert chain.posterior_variance[0] == 0
    assert np.isfinite(chain.posterior_log_variance_clipped).all()


def test_linear_schedule_keeps_its_end_for_other_numbers_of_steps() -> None:
    assert Schedule.create(num_train_steps=100).betas[-1] == pytest.approx(0.2, abs=BOUND)


def test_tables_are_read_only() -> None:
    chain = Schedule.create()
    with pytest.raises(ValueError, match="read-only"):
        chain.betas[0] = 1
    with pytest.raises(AttributeError):
        chain.betas = chain.alphas_cumprod


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"respacing": "1001"}, "'1001' asks for 1001 steps of section 1, which has 1000 of 1000"),
        ({"respacing": "10,400,20"}, "asks for 400 steps of section 2, which has 333 of 1000"),
        ({"respacing": "ddim300"}, "'ddim300' asks for 300 steps, .* over 1000 available steps"),
        ({"respacing": "ddim"}, "must name a count after 'ddim'.* got 'ddim'"),
        ({"respacing": "ten"}, "must be '', positive counts .* got 'ten'"),
        ({"respacing": "10,,20"}, "must be '', positive counts .* got '10,,20'"),
        ({"respacing": "0"}, "positive counts .* got '0'"),
        ({"respacing": -5}, "positive counts .* got '-5'"),
        ({"noise_schedule": "quadratic"}, r"one of \['linear', 'squaredcos_cap_v2'\].*'quadratic'"),
        ({"num_train_steps": 0}, "`num_train_steps` must be at least 1 and at most 100000, got 0"),
        ({"num_train_steps": 20}, r"`num_train_steps` \(=20\) must be more than 20"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule.create(**arguments)


def test_own_betas_are_checked() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, got values from 0\.5 to 1\.5"):
        Schedule(np.array([0.5, 1.5]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match=r"must be \(T,\) with T > 0, got \(2,\) and \(1,\)"):
        Schedule(np.array([0.5, 0.6]), np.array([0]), 2)
