"""The section `diffusion` of a training recipe: the process and what is learned of it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from latte_ms.diffusion.loss import Loss, check_loss_options
from latte_ms.diffusion.process import Prediction, Variance
from latte_ms.diffusion.schedule import MAX_TRAIN_STEPS, Schedule
from latte_ms.messages import shown
from latte_ms.options import Rule, check_each, integers, numbers, one_of
from latte_ms.parallel.communicator import Communicator
from latte_ms.training.timesteps import (
    LossHistory,
    TimestepSampler,
    TimestepSampling,
    logit_normal,
)

_ALIGNMENT_RULES: dict[str, Rule] = {
    "alignment_weight": numbers(0, 100),
    "alignment_student_blocks": integers(0, 4096),
    "alignment_teacher_blocks": integers(0, 4096),
    "alignment_gap": numbers(0, 1),
}
_TIMESTEP_RULES: dict[str, Rule] = {
    "timestep_logit_mean": numbers(-10, 10),
    "timestep_logit_deviation": numbers(0.01, 10),
}
_ALWAYS_RECORDED = ("num_train_steps", "noise_schedule", "loss", "prediction")  # of `diffusion`


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process and what is learned. Raises ValueError for an invalid combination."""

    num_train_steps: int = 1000
    noise_schedule: str = "linear"  # or squaredcos_cap_v2
    loss: Loss = "mse"  # mse, rescaled_mse, kl or rescaled_kl
    prediction: Prediction = "epsilon"  # or x0
    variance: Variance = "fixed_small"  # or fixed_large; for the kl losses, if it is not learned
    min_snr_gamma: float = 0.0  # 5 is usual; weights the squared error, arXiv 2303.09556; 0: off
    # 0.05 is usual; pushes the prediction away from another sample's target, arXiv 2506.05350;
    # 0: off
    contrastive_weight: float = 0.0
    # uniform; loss_aware: more often where the loss is large; logit_normal: the logit of a
    # timestep's share of the schedule has this mean and deviation, arXiv 2403.03206
    timestep_sampling: TimestepSampling = "uniform"
    timestep_logit_mean: float = 0.0  # above 0: more often where the noise is strong
    timestep_logit_deviation: float = 1.0
    # Of self-representation alignment, arXiv 2505.02831, which has 0.04; 0: off
    alignment_weight: float = 0.0
    # The student's tokens are taken after this many blocks, such as 8 of 28,
    alignment_student_blocks: int = 0
    # and those of its teacher, the EMA, after this many, such as 20 of 28.
    alignment_teacher_blocks: int = 0
    # Largest share of the timesteps by which the EMA sees less noise
    alignment_gap: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.num_train_steps <= MAX_TRAIN_STEPS:
            raise ValueError(
                f"`diffusion.num_train_steps` must be 1 to {MAX_TRAIN_STEPS}, "
                f"got {self.num_train_steps}."
            )
        if self.variance not in ("fixed_small", "fixed_large"):
            raise ValueError(
                "`diffusion.variance` must be fixed_small or fixed_large "
                f"(`network.learn_sigma` learns it), got {shown(self.variance)}."
            )
        if self.variance == "fixed_large" and self.loss not in ("kl", "rescaled_kl"):
            raise ValueError(
                f"`diffusion.variance` fixed_large needs a kl loss, "
                f"`diffusion.loss` is {self.loss}."
            )
        check_loss_options(self.loss, self.min_snr_gamma, self.contrastive_weight, "diffusion.")
        self._check_timesteps()
        self._check_alignment()
        self.schedule()  # raises ValueError for an unknown schedule

    def _check_timesteps(self) -> None:
        one_of(*get_args(TimestepSampling))("diffusion.timestep_sampling", self.timestep_sampling)
        check_each(self, _TIMESTEP_RULES, "diffusion.")
        if self.timestep_sampling != "logit_normal":
            for name in _TIMESTEP_RULES:
                value = getattr(self, name)
                if value != _default(name):
                    raise ValueError(
                        "`diffusion.timestep_sampling` must be logit_normal for "
                        f"`diffusion.{name}` (={value}), got {self.timestep_sampling}."
                    )

    def _check_alignment(self) -> None:
        check_each(self, _ALIGNMENT_RULES, "diffusion.")
        student, teacher = self.alignment_student_blocks, self.alignment_teacher_blocks
        if self.alignment_weight and not 0 < student < teacher:
            raise ValueError(
                f"`diffusion.alignment_student_blocks` (={student}) must be at least 1 and less "
                f"than `diffusion.alignment_teacher_blocks` (={teacher})."
            )
        if not self.alignment_weight and (student or teacher or self.alignment_gap != 0.1):
            raise ValueError(
                "`diffusion.alignment_weight` must be above 0 for the other keys of the alignment, "
                f"got {self.alignment_weight}."
            )

    def timestep_sampler(self, communicator: Communicator) -> TimestepSampler | None:
        """What completes the batches of a run; None where they are complete."""
        drawn_by: LossHistory | np.ndarray | None = None
        if self.timestep_sampling == "loss_aware":
            drawn_by = LossHistory(self.num_train_steps)
        elif self.timestep_sampling == "logit_normal":
            mean, deviation = self.timestep_logit_mean, self.timestep_logit_deviation
            drawn_by = logit_normal(self.num_train_steps, mean, deviation)
        if drawn_by is None and self.teacher_gap is None:
            return None
        return TimestepSampler(self.num_train_steps, drawn_by, self.teacher_gap, communicator)

    @property
    def teacher_gap(self) -> int | None:
        """Largest number of timesteps by which a teacher's timestep is below its student's."""
        if not self.alignment_weight:
            return None
        return min(round(self.alignment_gap * self.num_train_steps), self.num_train_steps - 1)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields, but for newer ones at their default: older checkpoints do not record them."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name in _ALWAYS_RECORDED or value != _default(name)
        }

    def schedule(self) -> Schedule:
        """The chain of `num_train_steps` steps."""
        return Schedule.create(self.num_train_steps, self.noise_schedule)


def _default(name: str) -> Any:
    """The value of the field `name` where a recipe does not state it."""
    return next(one.default for one in dataclasses.fields(DiffusionConfig) if one.name == name)
