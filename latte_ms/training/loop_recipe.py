"""The section `loop` of a training recipe."""

from dataclasses import dataclass

from omegaconf import MISSING

_MAX_UPDATES = 10**9  # 30 updates a second for a year
_LOOP_LIMITS = {
    "max_steps": (1, _MAX_UPDATES),
    "batch_size": (1, 100_000),
    "accumulate": (1, 100_000),
    "num_workers": (1, 1024),
    "log_every": (1, _MAX_UPDATES),
    "save_every": (1, _MAX_UPDATES),
    "keep_checkpoints": (0, _MAX_UPDATES),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class LoopConfig:
    """The length of a run, and what it writes to disk."""

    output: str = MISSING  # folder; running the same command again resumes from its checkpoints
    max_steps: int = 1_000_000
    batch_size: int = 5  # videos per batch and device, or group of devices that divide clips
    accumulate: int = 1  # batches per update, whose gradients are averaged
    num_workers: int = 8  # threads that decode videos
    log_every: int = 100
    save_every: int = 10_000
    keep_checkpoints: int = 3  # number of newest ones; 0 keeps all
    tensorboard: bool = False  # the columns of the history also as scalars for TensorBoard
    seed: int = 3407

    def __post_init__(self) -> None:
        for name, (least, most) in _LOOP_LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"`loop.{name}` must be {least} to {most}, got {value}.")
