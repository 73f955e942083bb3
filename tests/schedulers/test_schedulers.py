"""mindone's schedulers as the pipelines use them, against diffusers' on the same noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import schedulers
from latte_ms.schedulers import SCHEDULERS

FOLDER = Path(__file__).parents[1] / "reference" / "schedulers"
CASES = json.loads((FOLDER / "cases.json").read_text())
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
BETAS["beta_schedule"] = "linear"
# What diffusers' rules make of these is not the clean sample.
MENDED = {"PNDMScheduler", "DEISMultistepScheduler", "TCDScheduler"}
SAME = [name for name in CASES if CASES[name]["scheduler"] not in MENDED and "trail" not in name]
LOOP = 1e-4  # fixed before looking, relative to the largest reference value


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "io.npz") as file:
        return dict(file)


def denoise(x: np.ndarray, t: float, bias: np.ndarray) -> np.ndarray:
    """The stand-in for the network in make_schedulers.py."""
    return (0.7 * x / np.sqrt(1 + x * x) + 0.1 * np.sin(t / 300) + 0.1 * bias).astype(np.float32)


def run(
    scheduler: Any,
    case: dict[str, Any],
    arrays: dict[str, np.ndarray],
    like_diffusers: bool = False,
) -> tuple[Any, Any]:
    start, noise = arrays["start"], arrays["noise"]
    asked = case.get("steps", 1), case.get("timesteps"), case.get("strength", 1.0)
    steps = schedulers.set_steps(scheduler, *asked, like_diffusers=like_diffusers)
    x = Tensor(noise * float(scheduler.init_noise_sigma))
    if "strength" in case:
        x = schedulers.add_noise(scheduler, Tensor(start), Tensor(noise), steps)
    generators = [np.random.default_rng(seed) for seed in (5, 6)]
    options = schedulers.step_options(scheduler, case.get("eta", 0.0), generators)
    for t in steps.timesteps:
        scaled = scheduler.scale_model_input(x, t).asnumpy()
        output = Tensor(denoise(scaled, t, start))
        x = scheduler.step(output, t, x, return_dict=False, **options)[0]
    return steps, x.asnumpy()


@pytest.mark.parametrize("name", CASES)
def test_diffusers_run(name: str, arrays: dict[str, np.ndarray]) -> None:
    case = CASES[name]
    scheduler = schedulers.create(case["scheduler"], BETAS, **case.get("settings", {}))
    steps, result = run(scheduler, case, arrays, like_diffusers=True)
    np.testing.assert_allclose(steps.timesteps, arrays[f"{name}/timesteps"], rtol=0, atol=1e-3)
    expected = arrays[f"{name}/x"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=LOOP * np.abs(expected).max())


@pytest.mark.parametrize("name", SAME)
def test_the_rules_are_diffusers_where_those_lead_to_the_clean_sample(
    name: str, arrays: dict[str, np.ndarray]
) -> None:
    case = CASES[name]
    results = []
    for like_diffusers in (False, True):
        scheduler = schedulers.create(case["scheduler"], BETAS, **case.get("settings", {}))
        results.append(run(scheduler, case, arrays, like_diffusers)[1])
    np.testing.assert_array_equal(*results)


def test_every_scheduler_is_among_the_cases() -> None:
    assert {case["scheduler"] for case in CASES.values()} == set(SCHEDULERS.values())


@pytest.mark.parametrize("name", ["heun", "unipc", "pndm", "kdpm2_ancestral", "dpm_single"])
def test_a_second_run_equals_the_first(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Also after a run that was interrupted."""
    scheduler = schedulers.create(name, BETAS)
    case = {"steps": 6}
    _, first = run(scheduler, case, arrays)
    steps = schedulers.set_steps(scheduler, 6)
    noise = Tensor(arrays["noise"])
    options = schedulers.step_options(scheduler, 0.0, [np.random.default_rng(0)] * 2)
    scheduler.scale_model_input(noise, steps.timesteps[0])
    scheduler.step(noise, steps.timesteps[0], noise, return_dict=False, **options)
    np.testing.assert_array_equal(run(scheduler, case, arrays)[1], first)


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.5), (20, 0.2), (12, 1.0)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_perfect_network_gives_the_clean_sample(
    name: str, steps: int, strength: float, arrays: dict[str, np.ndarray]
) -> None:
    """Wherever a run begins. Some schedulers leave the noise of timestep 0, which is 1%."""
    clean, noise = 0.5 * arrays["start"], arrays["noise"]
    scheduler = schedulers.create(name, BETAS, clip_sample=False)
    run = schedulers.set_steps(scheduler, steps, strength=strength)
    x = schedulers.add_noise(scheduler, Tensor(clean), Tensor(noise), run)
    alpha_bar = scheduler.alphas_cumprod.asnumpy()
    generators = [np.random.default_rng(seed) for seed in (5, 6)]
    options = schedulers.step_options(scheduler, 0.0, generators)
    for t in run.timesteps:
        level = np.interp(t, np.arange(1000), alpha_bar)
        scaled = scheduler.scale_model_input(x, t).asnumpy()
        output = (scaled - np.sqrt(level) * clean) / np.sqrt(1 - level)
        x = scheduler.step(Tensor(output.astype(np.float32)), t, x, return_dict=False, **options)[0]
    error = np.abs(x.asnumpy() - clean).max()
    assert error <= 1e-4 + np.sqrt(1 - alpha_bar[0]) * np.abs(noise).max()


def test_pndm_begins_with_runge_kutta_wherever_it_begins() -> None:
    scheduler = schedulers.create("pndm", BETAS)
    late = schedulers.set_steps(scheduler, 10, strength=0.5)
    stages = [400, 350, 350, 300, 300, 250, 250, 200, 200, 150, 150, 100]
    assert late.timesteps == (*stages, 100, 0)
    whole = schedulers.set_steps(scheduler, 10)
    assert whole.timesteps[:4] == (900, 850, 850, 800), "the next run has all its steps"


@pytest.mark.parametrize("steps", [1, 2])
def test_few_ancestral_steps_stay_finite(steps: int, arrays: dict[str, np.ndarray]) -> None:
    """diffusers loses the smaller square in float32 and gives NaN for two steps."""
    _, result = run(schedulers.create("kdpm2_ancestral", BETAS), {"steps": steps}, arrays)
    assert np.isfinite(result).all()


def test_unipc_ends_at_sigma_zero_with_either_solver_type(arrays: dict[str, np.ndarray]) -> None:
    """With B(h) = h diffusers multiplies infinity by zero, which is NaN."""
    _, result = run(schedulers.create("unipc", BETAS, solver_type="bh1"), {"steps": 8}, arrays)
    _, other = run(schedulers.create("unipc", BETAS), {"steps": 8}, arrays)
    assert np.abs(result - other).max() < 0.1 * np.abs(other).max()


def test_settings_are_passed_from_one_scheduler_to_the_next() -> None:
    first = schedulers.create("ddim", {**BETAS, "clip_sample": False, "steps_offset": 1})
    second = schedulers.create("euler", first.config)
    assert type(second).__name__ == "EulerDiscreteScheduler"
    assert second.config.steps_offset == 1
    assert second.config.timestep_spacing == "linspace", (
        "unset options have the defaults of the class"
    )
    third = schedulers.create("DDIMScheduler", second.config)
    assert third.config.clip_sample is False, "settings of the first are still there"


def test_only_ddpm_uses_a_learned_variance() -> None:
    for name in SCHEDULERS:
        scheduler = schedulers.create(name, BETAS, variance_type="learned_range")
        assert schedulers.uses_variance(scheduler) == (name == "ddpm")
    assert not schedulers.uses_variance(schedulers.create("ddpm", BETAS))


@pytest.mark.parametrize("name", ["dpm", "dpm_single"])
def test_dpm_solver_uses_all_channels(name: str, arrays: dict[str, np.ndarray]) -> None:
    """With a learned variance, the library's class would take three of four channels."""
    plain = run(schedulers.create(name, BETAS), {"steps": 4}, arrays)[1]
    with_variance = schedulers.create(name, BETAS, variance_type="learned_range")
    np.testing.assert_array_equal(run(with_variance, {"steps": 4}, arrays)[1], plain)


def test_progress_counts_the_users_steps() -> None:
    counts = {}
    for name in ("ddim", "heun", "kdpm2_ancestral"):
        steps = schedulers.set_steps(schedulers.create(name, BETAS), 6)
        counts[name] = (len(steps), steps.num_user_steps)
    assert counts == {"ddim": (6, 6), "heun": (11, 6), "kdpm2_ancestral": (11, 6)}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ddim", {"num_inference_steps": 1001}, r"from 1 to 1000, got 1001"),
        ("ddim", {"num_inference_steps": 0}, r"`num_inference_steps` must be from 1"),
        ("pndm", {"num_inference_steps": 3}, r"\(=3\) must be at least 4 for PNDM"),
        ("ddim", {"num_inference_steps": 2, "timesteps": [9, 1]}, r"cannot be chosen with DDIM"),
        ("ddpm", {"num_inference_steps": 2, "timesteps": [1000, 1]}, r"from 0 to 999, got \[1000"),
        ("ddim", {"num_inference_steps": 5, "strength": 0.1}, r"`strength` \(=0\.1\) of .*\(=5\)"),
        ("pndm", {"num_inference_steps": 9, "strength": 0.4}, r"leave at least 4 steps, got 3"),
        ("lcm", {"num_inference_steps": 51}, r"num_inference_steps"),
    ],
)
def test_impossible_steps(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedulers.set_steps(schedulers.create(name, BETAS), **arguments)


def test_unknown_schedulers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of \['ddim', .*got 'dimm'"):
        schedulers.create("dimm")
    with pytest.raises(ValueError, match="`rescale_betas_zero_snr` must be false for UniPC"):
        schedulers.create("unipc", {"rescale_betas_zero_snr": True})
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "FlowMatchEuler"}')
    with pytest.raises(ValueError, match="got 'FlowMatchEuler'"):
        schedulers.load(tmp_path)
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": ')
    with pytest.raises(ValueError, match=r"scheduler_config\.json must hold JSON: Expecting"):
        schedulers.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder with scheduler_config\.json"):
        schedulers.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"of mindone\.diffusers\.schedulers, got builtins\.dict"):
        schedulers.adopt({})
