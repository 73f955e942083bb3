"""A scheduler's tables on the host, and the timesteps of a run."""

from typing import Any

import numpy as np

from latte_ms.messages import shown


def host_table(scheduler: Any, name: str) -> np.ndarray:
    """The table `scheduler.<name>` as float64 or int64, fetched once per `set_timesteps`."""
    source = getattr(scheduler, name)
    cached = getattr(scheduler, f"_host_{name}", None)
    if cached is None or cached[0] is not source:
        array = source.asnumpy()
        wide = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
        cached = (source, array.astype(wide))
        setattr(scheduler, f"_host_{name}", cached)
    return cached[1]


def next_timestep(scheduler: Any, timestep: int) -> int:
    """The next lower timestep of the run, -1 after the last."""
    timesteps = host_table(scheduler, "timesteps")
    return int(timesteps[timesteps < timestep].max(initial=-1))


def spaced(config: Any, count: int, train: int) -> np.ndarray:
    """`count` descending timesteps, float64 (Common Diffusion Noise Schedules, table 2)."""
    if config.timestep_spacing == "linspace":
        return np.linspace(0, train - 1, count)[::-1].copy()
    if config.timestep_spacing == "leading":
        return (np.arange(count)[::-1] * (train // count) + config.steps_offset).astype(np.float64)
    if config.timestep_spacing == "trailing":
        # Counts such as 61 would get one more by rounding, at -1.
        return np.arange(train, 0, -train / count)[:count].round() - 1
    raise ValueError(
        "`timestep_spacing` must be linspace, leading or trailing, "
        f"got {shown(config.timestep_spacing)}."
    )
