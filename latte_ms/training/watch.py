"""Watching a run for updates that failed, without waiting for each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor

from latte_ms.runtime import Rank
from latte_ms.training.batch import Batch

LOOK_EVERY = 100  # updates after which their gradient norms are read at the latest
# Updates in a row that may overflow under a dynamic loss scale, which is halved each time: it would
# have come from 2^50 down to 1, and the next one shows that the scale is not the cause.
_OVERFLOWS = 50
_SHOWN = 64  # names of videos in a message


class DivergedError(RuntimeError):
    """An update whose gradient is infinite or NaN, in a run that cannot go on after it."""


@dataclass(frozen=True)
class _Update:
    number: int  # counted from 1
    videos: tuple[str, ...]
    norm: Tensor


class Watch:
    """The updates whose gradient norms have not been read yet; reading one waits for its update.

    Args:
        scaled: whether the loss has a dynamic scale, under which an overflow is skipped, counted
            and no failure.
        rank: this process. The norm is that of all ranks, so they all fail after the same update.
    """

    def __init__(self, scaled: bool, rank: Rank) -> None:
        self.rank, self.allowed = rank, _OVERFLOWS if scaled else 0
        self._unread: list[_Update] = []
        self._overflows = 0  # in a row, up to the last update that was read
        self._error: DivergedError | None = None

    def add(self, number: int, batches: Sequence[Batch], norm: Tensor) -> None:
        """Remember update `number`, counted from 1, of these batches, and its gradient norm."""
        videos = dict.fromkeys(name for batch in batches for name in batch.videos)
        self._unread.append(_Update(number, tuple(videos), norm))

    @property
    def is_due(self) -> bool:
        """Whether `raise_if_failed` should be called now."""
        return len(self._unread) >= LOOK_EVERY

    def raise_if_failed(self, checkpoint: Path | None) -> None:
        """Read the norms of the updates since the last call.

        Raises DivergedError, which names the first update that failed, the videos of its batch and
        `checkpoint`, the newest one; also in later calls.
        """
        unread, self._unread = self._unread, []
        for update in unread if self._error is None else ():
            norm = float(update.norm.asnumpy())
            self._overflows = 0 if np.isfinite(norm) else self._overflows + 1
            if self._overflows > self.allowed:
                self._error = DivergedError(self._message(update, norm, checkpoint))
                break
        if self._error is not None:
            raise self._error

    def _message(self, update: _Update, norm: float, checkpoint: Path | None) -> str:
        before = f", and in the {self.allowed} updates before it," if self.allowed else ""
        names = ", ".join(update.videos[:_SHOWN]) or "unknown"
        if len(update.videos) > _SHOWN:
            names += f" and {len(update.videos) - _SHOWN} others"
        process = f" on rank {self.rank.index}" if self.rank.count > 1 else ""
        good = (
            f"the last good checkpoint is {checkpoint}"
            if checkpoint
            else "there is no earlier checkpoint"
        )
        return (
            f"The gradient norm of update {update.number}{before} is {norm}. Videos of its "
            f"batch{process}: {names}. Nothing of it is saved; {good}. Check these videos, lower "
            "`optimizer.learning_rate`, or use float32."
        )
