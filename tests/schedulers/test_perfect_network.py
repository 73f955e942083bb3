"""With a perfect network every run ends at the clean sample, or is refused before its first step.

`tools/check_schedules.py` has the network, and runs the whole grid.
"""

from typing import Any

import numpy as np
import pytest

from latte_ms import schedulers
from latte_ms.schedulers import SCHEDULERS
from latte_ms.schedulers.tables import host_table, spaced
from tools.check_schedules import BETAS, BOUND, COUNTS, OFFSETS, SPACINGS, distance

MULTISTEP = ("dpm", "dpm_single", "deis", "unipc")
SIGMAS = {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"prediction_type": "v_prediction"}) for name in SCHEDULERS),
    *(
        (name, {"prediction_type": "sample"})
        for name in SCHEDULERS
        if name not in ("pndm", "euler_ancestral", "kdpm2_ancestral")
    ),
    *(
        (name, {option: True})
        for name in (*MULTISTEP, "euler", "heun", "kdpm2_ancestral")
        for option in sorted(SIGMAS)
    ),
    *((name, {"use_flow_sigmas": True}) for name in MULTISTEP),
    *((name, {"solver_order": order}) for name in MULTISTEP for order in (1, 3)),
    *((name, {"algorithm_type": "sde-dpmsolver++"}) for name in ("dpm", "dpm_single")),
    ("dpm", {"solver_type": "heun", "timestep_spacing": "trailing"}),
    ("dpm", {"use_lu_lambdas": True}),
    ("dpm", {"euler_at_final": True}),
    ("dpm", {"lambda_min_clipped": -4.0, "timestep_spacing": "trailing"}),
    ("unipc", {"solver_type": "bh1"}),
    ("unipc", {"predict_x0": False}),
    ("unipc", {"lower_order_final": False}),
    ("deis", {"lower_order_final": False, "solver_order": 3}),
    ("pndm", {"skip_prk_steps": True, "timestep_spacing": "trailing"}),
    ("pndm", {"skip_prk_steps": True, "prediction_type": "v_prediction"}),
    ("pndm", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("ddpm", {"variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ("ddpm", {"variance_type": "fixed_small_log", "timestep_spacing": "trailing"}),
    ("ddim", {"clip_sample": True, "timestep_spacing": "trailing"}),
    ("ddim", {"eta": 1.0, "timestep_spacing": "trailing"}),
    ("tcd", {"eta": 0.8}),
    ("euler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    *(
        (name, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **trailing})
        for name in ("ddim", "ddpm", "lcm", "tcd", "dpm", "euler", "euler_ancestral")
        for trailing in [{"timestep_spacing": "trailing"}]
    ),
]


@pytest.mark.parametrize(("spacing", "offset"), [*zip(SPACINGS, (0, 1, 0), strict=True)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_runs_end_at_the_clean_sample(name: str, spacing: str, offset: int) -> None:
    assert distance(name, 7, timestep_spacing=spacing, steps_offset=offset) <= BOUND


@pytest.mark.extended
@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_numbers_of_steps(name: str) -> None:
    """The last steps of long runs; whole runs are the tool's."""
    for count in COUNTS:
        tail = 1.0 if count < 50 else 4.5 / count
        for spacing in SPACINGS:
            for offset in OFFSETS:
                settings = {"timestep_spacing": spacing, "steps_offset": offset}
                if (name, spacing, offset, count) in REFUSED or (name, count) in TOO_FEW_OR_MANY:
                    with pytest.raises(ValueError, match=f"`num_inference_steps` .*{count}"):
                        distance(name, count, strength=tail, **settings)
                else:
                    error = distance(name, count, strength=tail, **settings)
                    assert error <= BOUND, (count, settings)


# The last timestep of "leading" is 1000, or the spacing has fewer timesteps than that.
REFUSED = {
    *(
        (name, "leading", 1, 1000)
        for name in SCHEDULERS
        if name not in ("dpm_single", "lcm", "tcd")
    ),
    *((name, "leading", 0, 1000) for name in ("dpm", "deis", "unipc")),
    *((name, "linspace", offset, 1000) for name in ("dpm", "deis", "unipc") for offset in OFFSETS),
    *(("dpm_single", spacing, offset, 1000) for spacing in SPACINGS for offset in OFFSETS),
}
TOO_FEW_OR_MANY = {
    *(("pndm", count) for count in (1, 2)),
    *((name, count) for name in ("lcm", "tcd") for count in (250, 1000)),
}


@pytest.mark.parametrize(
    ("name", "spacing", "offset", "count"), sorted(REFUSED), ids=lambda part: str(part)
)
def test_refused_before_the_first_step(name: str, spacing: str, offset: int, count: int) -> None:
    settings = {"timestep_spacing": spacing, "steps_offset": offset}
    scheduler = schedulers.create(name, BETAS, **settings)
    message = r"`num_inference_steps` \(=1000\)"
    if name != "dpm_single":  # has no such settings
        message += rf", `timestep_spacing` \(='{spacing}'\) and `steps_offset` \(={offset}\): "
    with pytest.raises(ValueError, match=message):
        schedulers.set_steps(scheduler, count)


@pytest.mark.extended
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_settings_of_all_schedulers(name: str, settings: dict[str, Any]) -> None:
    """With 16 steps, since shorter runs lower the order of their last ones."""
    assert distance(name, 16, **settings) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_steps_without_runge_kutta(count: int) -> None:
    for spacing in SPACINGS[1:] if count == 2 else SPACINGS:
        assert distance("pndm", count, skip_prk_steps=True, timestep_spacing=spacing) <= BOUND


@pytest.mark.parametrize("strength", [0.1, 0.45])
@pytest.mark.parametrize("name", ["ddim", "pndm", "heun", "unipc", "tcd"])
def test_a_later_start(name: str, strength: float) -> None:
    settings = {"timestep_spacing": "trailing", "skip_prk_steps": True}
    assert distance(name, 13, strength=strength, **settings) <= BOUND


@pytest.mark.parametrize("timesteps", [[999, 500, 7], [340], [999, 998, 2]])
@pytest.mark.parametrize("name", ["ddpm", "dpm", "dpm_single", "euler", "heun", "lcm", "tcd"])
def test_chosen_timesteps(name: str, timesteps: list[int]) -> None:
    settings = {"variance_type": "fixed_large"} if name == "ddpm" else {}
    assert distance(name, timesteps=timesteps, **settings) <= BOUND


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm", "dpm_single", "unipc"])
def test_the_noise_of_timestep_0_stays_where_settings_ask_for_it(name: str) -> None:
    """Whatever the spacing: the run ends at a sample with that noise, no more and no less."""
    option = {"set_alpha_to_one": False} if name == "ddim" else {"final_sigmas_type": "sigma_min"}
    error = distance(name, 7, timestep_spacing="trailing", **option)
    assert 1e-3 < error < 4e-2


def test_ddim_as_in_diffusers_misses_the_clean_sample() -> None:
    settings = {"timestep_spacing": "trailing"}
    assert distance("ddim", 7, **settings, like_diffusers=True) > 10 * BOUND
    assert distance("ddim", 10, **settings, like_diffusers=True) <= BOUND


@pytest.mark.parametrize("count", [61, 103, 484, 961])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("lcm", "tcd")])
def test_trailing_runs_have_as_many_steps_as_asked(name: str, count: int) -> None:
    """Rounding up the length of these runs would add a step at timestep -1."""
    scheduler = schedulers.create(name, BETAS, timestep_spacing="trailing", skip_prk_steps=True)
    steps = schedulers.set_steps(scheduler, count)
    expected = count + 1 if name == "pndm" else count
    assert steps.num_user_steps == expected
    assert min(steps.timesteps) >= 0
    assert scheduler.num_inference_steps == count
    if hasattr(scheduler, "sigmas"):
        levels = host_table(scheduler, "sigmas")
        assert levels[len(steps) - 1] > levels[len(steps)] == levels[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "dpm", "heun"])
def test_trailing_runs_of_such_lengths_end_at_the_clean_sample(name: str) -> None:
    assert distance(name, 61, timestep_spacing="trailing", strength=0.1) <= BOUND


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_of_all_numbers_of_steps(spacing: str) -> None:
    config = schedulers.create("ddim", BETAS, timestep_spacing=spacing).config
    for count in range(1, 1001):
        timesteps = spaced(config, count, 1000).round()
        assert len(timesteps) == count
        assert (np.diff(timesteps) < 0).all()
        assert 0 <= timesteps[-1] <= timesteps[0] <= 999


@pytest.mark.parametrize(
    ("name", "settings", "arguments", "message"),
    [
        ("ddim", {}, (2.0,), r"`num_inference_steps` must be a whole number, got 2\.0"),
        ("ddim", {}, (True,), "must be a whole number, got True"),
        ("ddim", {}, (-3,), r"`num_inference_steps` must be from 1 to 1000, got -3"),
        ("lcm", {}, (51,), r"from 1 to 50, got 51 \(`original_inference_steps` of LCM"),
        ("dpm", {}, (1, []), r"`timesteps` must be descending whole numbers .*got \[\]"),
        ("dpm", {}, (1, [9, 9]), r"`timesteps` must be descending whole numbers .*\[9, 9\]"),
        ("dpm", {}, (1, [9, 10]), "`timesteps` must be descending whole numbers"),
        ("dpm", {}, (1, [9, 1.5]), r"`timesteps` must be descending whole numbers .*1\.5"),
        ("dpm", {}, (1, [9, -1]), "from 0 to 999"),
        ("lcm", {}, (1, [999, 1]), r"the last timestep is 1, .*`timestep_scaling` \(=10\.0\)"),
        ("pndm", {"prediction_type": "sample"}, (9,), "`prediction_type` must be one of"),
        ("kdpm2_ancestral", {"prediction_type": "sample"}, (9,), "`prediction_type` must be"),
        (
            "pndm",
            {"skip_prk_steps": True, "timestep_spacing": "linspace"},
            (2,),
            r"`num_inference_steps` \(=2\) must be another number",
        ),
        ("ddpm", {"variance_type": "fixed_large_log"}, (9,), "`variance_type` must be one of"),
        ("euler", {"interpolation_type": "log_linear"}, (9,), "`use_exponential_sigmas`"),
        (
            "ddim",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            (9,),
            "`rescale_betas_zero_snr` makes noise alone: `prediction_type` must be 'v_pred",
        ),
    ],
)
def test_refused_arguments_and_settings(
    name: str, settings: dict[str, Any], arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        schedulers.set_steps(schedulers.create(name, BETAS, **settings), *arguments)
