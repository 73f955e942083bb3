"""What a row of the history says about the updates since the row before: speed and time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_TIMED = ("data", "checkpoint")  # `compute` is the rest
COLUMNS = ("clips_per_second", "data_seconds", "compute_seconds", "checkpoint_seconds")


class Meter:
    """Seconds since the last row, by what they were spent on, and the speed.

    Updates run while the host goes on; the value that is read for a row waits for them. So the
    seconds are those of the whole interval between two rows: `data` is the time until batches were
    there, which includes the autoencoder's work where latents are not cached, `checkpoint` that of
    writing checkpoints and snapshots, `compute` the rest.

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
