"""What a row of the history says about the updates since the row before: speed and time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

_TIMED = ("data", "checkpoint")  # `compute` is the rest
COLUMNS = ("clips_per_second", "data_seconds", "compute_seconds", "checkpoint_seconds")


class Estimate:
    """The time that a run will take, from the updates after its first one, which is compiled."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self._begun: tuple[float, int] | None = None  # time and number of the first update
        self._told = False

    def add(self, num_updates: int) -> None:
        """Say that update number `num_updates` was started, before any later one is."""
        if self._begun is None:
            self._begun = time.perf_counter(), num_updates

    def message(self, num_updates: int) -> str:
        """The time that is left after `num_updates` updates, all of which are done; told once."""
        if self._told or self._begun is None or num_updates == self._begun[1]:
            return ""
        self._told = True
        seconds = (time.perf_counter() - self._begun[0]) / (num_updates - self._begun[1])
        left = timedelta(seconds=round(seconds * (self.max_steps - num_updates)))
        return f"An update takes {seconds:.3g} s; about {left} (h:mm:ss) for those that are left."


class Meter:
    """Seconds since the last row, by what they were spent on, and the speed.

    Updates run while the host goes on; the value that is read for a row waits for them. So the
    seconds are those of the whole interval between two rows: `data` is the time until batches were
    there, which includes the autoencoder's work where latents are not cached, `checkpoint` that of
    writing checkpoints, snapshots and previews, `compute` the rest.

    Args:
        clips_per_update: of all ranks.
    """

    def __init__(self, clips_per_update: int, num_updates: int) -> None:
        self.clips_per_update = clips_per_update
        self._begin(num_updates)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time inside as "data" or "checkpoint"."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - begun

    def row(self, num_updates: int) -> dict[str, float]:
        """The values of `COLUMNS` after `num_updates` updates, all of which are done."""
        total = time.perf_counter() - self._begun
        clips = (num_updates - self._num_updates) * self.clips_per_update
        parts = {**self._seconds, "compute": total - sum(self._seconds.values())}
        self._begin(num_updates)
        return {
            "clips_per_second": clips / total,
            **{f"{name}_seconds": seconds for name, seconds in parts.items()},
        }

    def _begin(self, num_updates: int) -> None:
        self._begun, self._num_updates = time.perf_counter(), num_updates
        self._seconds = dict.fromkeys(_TIMED, 0.0)
