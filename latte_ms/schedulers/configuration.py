"""The settings of schedulers in scheduler_config.json: type and range of each."""

from collections.abc import Mapping
from typing import Any

from latte_ms.messages import shown
from latte_ms.options import (
    Rule,
    boolean,
    check_present,
    fraction,
    integers,
    items,
    numbers,
    one_of,
    optional,
    positive,
    positive_fraction,
    text,
)

_MAX_TIMESTEPS = 100_000
_PREDICTIONS = ("epsilon", "v_prediction", "sample", "original_sample", "flow_prediction")
_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned")
_DPM_TYPES = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis")


def _null(name: str, value: Any) -> None:
    if isinstance(value, str | int | float | list | dict):
        raise ValueError(f"`{name}` must be null, got {shown(value)}.")


def _number_or_minus_infinity(name: str, value: Any) -> None:
    if value != float("-inf"):
        numbers(-1e6, 1e6)(name, value)


RULES: dict[str, Rule] = {
    "num_train_timesteps": integers(2, _MAX_TIMESTEPS),
    "beta_start": positive_fraction,
    "beta_end": positive_fraction,
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "prediction_type": one_of(*_PREDICTIONS),
    "timestep_spacing": one_of("leading", "linspace", "trailing"),
    "steps_offset": integers(0, _MAX_TIMESTEPS),
    "original_inference_steps": integers(1, _MAX_TIMESTEPS),
    "timestep_scaling": positive(1e6),
    "variance_type": optional(one_of(*_VARIANCES, "learned_range")),
    "dynamic_thresholding_ratio": fraction,
    "clip_sample_range": positive(1e6),
    "sample_max_value": positive(1e6),
    "clip_sample": boolean,
    "set_alpha_to_one": boolean,
    "thresholding": boolean,
    "rescale_betas_zero_snr": boolean,
    "solver_order": integers(1, 3),
    "algorithm_type": one_of(*_DPM_TYPES),
    "solver_type": one_of("midpoint", "heun", "logrho", "bh1", "bh2"),
    "lower_order_final": boolean,
    "euler_at_final": boolean,
    "predict_x0": boolean,
    "skip_prk_steps": boolean,
    "use_karras_sigmas": boolean,
    "use_exponential_sigmas": boolean,
    "use_beta_sigmas": boolean,
    "use_lu_lambdas": boolean,
    "use_flow_sigmas": boolean,
    "use_dynamic_shifting": boolean,
    "flow_shift": optional(positive(1e4)),
    "final_sigmas_type": optional(one_of("zero", "sigma_min")),
    "lambda_min_clipped": _number_or_minus_infinity,
    "time_shift_type": one_of("exponential", "linear"),
    "interpolation_type": one_of("linear", "log_linear"),
    "timestep_type": one_of("discrete", "continuous"),
    "sigma_min": optional(positive(1e6)),
    "sigma_max": optional(positive(1e6)),
    "disable_corrector": items(integers(0, _MAX_TIMESTEPS), 0, _MAX_TIMESTEPS),
    "solver_p": _null,  # a scheduler, which no file holds
    "_diffusers_version": text,
    "_use_default_values": items(text, 0, 1000),
}


def check_config(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for the first setting whose value breaks its rule.

    Settings that are not in `RULES` have no effect here.
    """
    check_present(settings, RULES)
    start, end = settings.get("beta_start"), settings.get("beta_end")
    if start is not None and end is not None and start > end:
        raise ValueError(f"`beta_start` (={start}) must be at most `beta_end` (={end}).")
    betas, count = settings.get("trained_betas"), settings.get("num_train_timesteps", 1000)
    if betas is None:
        return
    values = betas if isinstance(betas, list | tuple) else getattr(betas, "tolist", list)()
    items(positive_fraction, 1, _MAX_TIMESTEPS)("trained_betas", values)
    if len(values) != count:
        raise ValueError(
            f"`trained_betas` must have `num_train_timesteps` (={count}) values, "
            f"got {shown(values)}."
        )
