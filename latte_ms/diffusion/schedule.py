"""Noise schedules and their respacing, as float64 tables in numpy.

Notation: beta_i is the variance added at step i, alpha_bar_i the product of 1 - beta up to i.
Tables stay float64 until `diffusion.process` gathers them: near step 0 the difference 1 - alpha_bar
has lost its digits in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latte_ms.messages import shown

MAX_TRAIN_STEPS = 100_000  # of a schedule, whose tables have an entry for each
MAX_COSINE_BETA = 0.999  # the last steps would otherwise reach 1


def linear_betas(num_train_steps: int) -> np.ndarray:
    """Betas from 1e-4 to 0.02 for 1000 steps, scaled to keep the end point for other counts."""
    if num_train_steps <= 20:
        raise ValueError(
            f"`num_train_steps` (={num_train_steps}) must be more than 20 for the linear schedule: "
            "its last beta is 20 / num_train_steps."
        )
    scale = 1000 / num_train_steps
    return np.linspace(scale * 1e-4, scale * 0.02, num_train_steps, dtype=np.float64)


def cosine_betas(num_train_steps: int) -> np.ndarray:
    """Betas whose alpha_bar follows a squared cosine (Improved DDPM, equation 17)."""
    ends = np.arange(num_train_steps + 1, dtype=np.float64) / num_train_steps
    alpha_bar = np.cos((ends + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_COSINE_BETA)


NOISE_SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": linear_betas,
    "squaredcos_cap_v2": cosine_betas,
}


def respaced_timesteps(num_train_steps: int, respacing: str | int = "") -> list[int]:
    """The training timesteps of a shorter chain, in ascending order.

    Args:
        num_train_steps: length of the training schedule.
        respacing: "" keeps all. "a,b,c" cuts the schedule into as many equal sections as there are
            numbers and keeps that many steps of each, both ends of a section included; "250" is one
            section. "ddimN" keeps N steps at a constant integer stride from 0.
    Raises:
        ValueError: the count does not fit; the message gives the requested and available steps.
    """
    text = str(respacing).strip()
    if text.startswith("ddim"):
        return _strided(num_train_steps, text)
    counts = [num_train_steps] if text == "" else _parse_counts(text)
    size, longer = divmod(num_train_steps, len(counts))
    timesteps: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        length = size + (1 if i < longer else 0)
        if count > length:
            raise ValueError(
                f"`respacing` {shown(text)} asks for {count} steps of section {i + 1}, "
                f"which has {length} of {num_train_steps}."
            )
        timesteps += [start + offset for offset in _spread(count, length)]
        start += length
    return timesteps


def _parse_counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(
            f"`respacing` must be '', positive counts such as '250' or '10,15,20', or 'ddimN', "
            f"got {shown(text)}."
        )
    return [int(part) for part in parts]


def _spread(count: int, length: int) -> list[int]:
    """`count` offsets from 0 to length - 1.

    The position is a running float sum, rounded half to even: a product or another rounding picks
    other steps in places.
    """
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    position, offsets = 0.0, []
    for _ in range(count):
        offsets.append(round(position))
        position += stride
    return offsets


def _strided(num_train_steps: int, text: str) -> list[int]:
    digits = text.removeprefix("ddim")
    if not digits.isdecimal() or int(digits) == 0:
        raise ValueError(
            f"`respacing` must name a count after 'ddim', as 'ddim50', got {shown(text)}."
        )
    num_steps = int(digits)
    for stride in range(1, num_train_steps + 1):
        steps = range(0, num_train_steps, stride)
        if len(steps) == num_steps:
            return list(steps)
    raise ValueError(
        f"`respacing` {shown(text)} asks for {num_steps} steps, but no integer stride over "
        f"{num_train_steps} available steps gives that many."
    )


@dataclass(frozen=True, eq=False)
class Schedule:
    """Diffusion steps, of training or respaced for sampling: float64 tables of length `num_steps`.

    Index i of every table is step i; `timestep_map[i]` is the training timestep that
    the network sees there. Arrays are read-only.
    """

    betas: np.ndarray  # (T,) of this chain, not of the training schedule
    timestep_map: np.ndarray  # (T,) int64
    num_train_steps: int

    def __post_init__(self) -> None:
        betas = _read_only(np.asarray(self.betas, np.float64))
        steps = _read_only(np.asarray(self.timestep_map, np.int64))
        if betas.ndim != 1 or betas.size == 0 or betas.shape != steps.shape:
            raise ValueError(
                f"`betas` and `timestep_map` must be (T,) with T > 0, "
                f"got {betas.shape} and {steps.shape}."
            )
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                f"`betas` must lie between 0 and 1, got values from {betas.min()} to {betas.max()}."
            )
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "timestep_map", steps)

    @classmethod
    def create(
        cls,
        num_train_steps: int = 1000,
        noise_schedule: str = "linear",
        respacing: str | int = "",
    ) -> "Schedule":
        """The named schedule, respaced (see `respaced_timesteps`).

        A respaced chain has the same alpha_bar at its timesteps: beta_i = 1 - alpha_bar_i /
        alpha_bar_j, where j is the timestep before i in the chain.
        """
        if not 1 <= num_train_steps <= MAX_TRAIN_STEPS:
            raise ValueError(
                f"`num_train_steps` must be at least 1 and at most {MAX_TRAIN_STEPS}, "
                f"got {num_train_steps}."
            )
        if noise_schedule not in NOISE_SCHEDULES:
            raise ValueError(
                f"`noise_schedule` must be one of {sorted(NOISE_SCHEDULES)}, "
                f"got {shown(noise_schedule)}."
            )
        steps = respaced_timesteps(num_train_steps, respacing)
        alpha_bar = np.cumprod(1.0 - NOISE_SCHEDULES[noise_schedule](num_train_steps))[steps]
        betas = 1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1])
        return cls(betas, np.array(steps), num_train_steps)

    @property
    def num_steps(self) -> int:
        """Length of this chain."""
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """alpha_bar_i."""
        return _read_only(np.cumprod(1.0 - self.betas))

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """alpha_bar_{i-1}, 1 before the first step."""
        return _read_only(np.append(1.0, self.alphas_cumprod[:-1]))

    @cached_property
    def alphas_cumprod_next(self) -> np.ndarray:
        """alpha_bar_{i+1}, 0 after the last step."""
        return _read_only(np.append(self.alphas_cumprod[1:], 0.0))

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Variance of q(x_{i-1} | x_i, x_0) (DDPM, equation 7); 0 at step 0."""
        return _read_only(self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod))

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """Its logarithm, step 1's value standing in for log 0 at step 0."""
        variance = self.posterior_variance
        first = variance[1] if self.num_steps > 1 else self.betas[0]
        return _read_only(np.log(np.append(first, variance[1:])))

    @cached_property
    def posterior_mean_coef1(self) -> np.ndarray:
        """Weight of x_0 in the mean of q(x_{i-1} | x_i, x_0)."""
        weight = self.betas * np.sqrt(self.alphas_cumprod_prev)
        return _read_only(weight / (1 - self.alphas_cumprod))

    @cached_property
    def posterior_mean_coef2(self) -> np.ndarray:
        """Weight of x_i in the mean of q(x_{i-1} | x_i, x_0)."""
        weight = (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas)
        return _read_only(weight / (1 - self.alphas_cumprod))


def _read_only(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array.setflags(write=False)
    return array
