"""The timesteps of a batch where they are not uniform, and those of a teacher.

Both come from the uniform numbers of a batch, which depend on nothing but the seed and the numbers
of its samples. The state here is saved in checkpoints, so a resumed run draws the same timesteps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from latte_ms.parallel.communicator import Communicator
from latte_ms.training.batch import Batch, LatentBatch

TimestepSampling = Literal["uniform", "loss_aware", "logit_normal"]

_HISTORY = 10  # losses kept of each timestep
_UNIFORM_SHARE = 0.001  # of the draws: no timestep is left out


def logit_normal(num_train_steps: int, mean: float, deviation: float) -> np.ndarray:
    """Probabilities (T,) float64 of timesteps t, where the logit of (t + u) / T is normal.

    u is uniform in [0, 1): a timestep stands for its part of the schedule. arXiv 2403.03206,
    section 3.1; a positive `mean` draws more of the noisy ones. `deviation` must be above 0.
    """
    edges = np.arange(1, num_train_steps) / num_train_steps
    normal = NormalDist(mean, deviation)
    below = [normal.cdf(logit) for logit in np.log(edges / (1.0 - edges)).tolist()]
    return np.diff([0.0, *below, 1.0])


class LossHistory:
    """The last 10 losses of each of T timesteps, and how often each is drawn because of them.

    Improved DDPM (arXiv 2102.09672, equation 18): in proportion to the root of the mean square of
    its losses, once every timestep has 10 of them; uniformly until then, and in 0.1% of the draws.
    """

    def __init__(self, num_train_steps: int) -> None:
        self.losses = np.zeros((num_train_steps, _HISTORY), np.float32)  # the newest last
        self.counts = np.zeros(num_train_steps, np.int32)  # of the known losses, at most 10

    def probabilities(self) -> np.ndarray:
        """Of each timestep: (T,) float64."""
        uniform = np.full(len(self.counts), 1.0 / len(self.counts))
        if self.counts.min() < _HISTORY:
            return uniform
        roots = np.sqrt((self.losses.astype(np.float64) ** 2).mean(1))
        if not roots.any():
            return uniform
        return (1.0 - _UNIFORM_SHARE) * roots / roots.sum() + _UNIFORM_SHARE * uniform

    def record(self, timesteps: np.ndarray, losses: np.ndarray) -> None:
        """Add the losses (N,) of samples at `timesteps` (N,), in this order.

        Losses that are not finite are left out.
        """
        for t, loss in zip(timesteps.tolist(), losses, strict=True):
            if not np.isfinite(loss):
                continue
            if self.counts[t] == _HISTORY:
                self.losses[t, :-1] = self.losses[t, 1:]
            else:
                self.counts[t] += 1
            self.losses[t, self.counts[t] - 1] = loss


class TimestepSampler:
    """Completes batches: with timesteps that are not uniform, and with those of a teacher.

    Args:
        num_train_steps: T of the training schedule.
        drawn_by: probabilities (T,) of the timesteps; or the losses that they follow, and then
            samples have importance weights. None leaves the timesteps of the batch.
        teacher_gap: largest number of timesteps by which a teacher's timestep is below its
            student's, 0 to T - 1; the gap of a sample is uniform, and timesteps below 0 become 0.
            None: there is no teacher.
        communicator: of the ranks, whose losses are shared, so that all have the same history.
    """

    def __init__(
        self,
        num_train_steps: int,
        drawn_by: LossHistory | np.ndarray | None,
        teacher_gap: int | None,
        communicator: Communicator,
    ) -> None:
        if teacher_gap is not None and not 0 <= teacher_gap < num_train_steps:
            raise ValueError(
                f"`teacher_gap` must be 0 to {num_train_steps - 1}, got {teacher_gap}."
            )
        self.history = drawn_by if isinstance(drawn_by, LossHistory) else None
        self.probabilities = drawn_by if isinstance(drawn_by, np.ndarray) else None
        self.teacher_gap, self.communicator = teacher_gap, communicator

    def complete(self, batch: Batch) -> LatentBatch:
        """The batch with its timesteps, and in `conditions` what `DenoisingObjective` needs.

        Raises ValueError for a batch without uniform numbers.
        """
        if not isinstance(batch, LatentBatch) or batch.uniform is None:
            raise ValueError("`batch` must be a LatentBatch with its `uniform` numbers.")
        t, added = batch.timesteps, {}
        if self.history is not None:
            probabilities = self.history.probabilities()
            t = _draw(probabilities, batch.uniform[:, 0])
            # The factors that keep a mean what it is with uniform timesteps.
            importance = 1.0 / (len(probabilities) * probabilities[t])
            added["importance"] = importance.astype(np.float32)
        elif self.probabilities is not None:
            t = _draw(self.probabilities, batch.uniform[:, 0])
        if self.teacher_gap is not None:
            gap = (batch.uniform[:, 1] * (self.teacher_gap + 1)).astype(np.int32)
            added["teacher_t"] = np.maximum(t - gap, 0).astype(np.int32)
        return dataclasses.replace(batch, timesteps=t, conditions={**batch.conditions, **added})

    def record(self, timesteps: Sequence[np.ndarray], losses: Sequence[np.ndarray]) -> None:
        """Keep the losses (B,) of this rank's batches of an update, and those of the other ranks.

        Samples are recorded in the order of their numbers, whatever the number of ranks.
        """
        if self.history is None:
            return
        own = np.stack([np.stack(timesteps), np.stack(losses)], -1)  # (batches, B, 2)
        rank = self.communicator.rank
        table = np.zeros((len(own), rank.count, *own.shape[1:]), np.float32)
        table[:, rank.index] = own
        shared = self.communicator.sum(table.reshape(-1).tolist()).asnumpy().reshape(-1, 2)
        self.history.record(shared[:, 0].astype(np.int64), shared[:, 1])

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs, by name."""
        if self.history is None:
            return {}
        return {"timestep_losses": self.history.losses, "timestep_counts": self.history.counts}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a `state` of the same shapes."""
        for name, array in self.state.items():
            array[:] = state[name]


def _draw(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Timesteps (B,) int32 by inversion."""
    edges = np.cumsum(probabilities)
    t = np.searchsorted(edges, uniform * edges[-1], side="right")
    return np.minimum(t, len(edges) - 1).astype(np.int32)
