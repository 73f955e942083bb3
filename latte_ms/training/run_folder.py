"""`loop.output` while one training run fills it."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from latte_ms.atomic import remove_partial
from latte_ms.parallel.lock import FolderLock
from latte_ms.runtime import Rank
from latte_ms.training import checkpoint
from latte_ms.training.history import figure_class
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.snapshots import SNAPSHOTS
from latte_ms.training.tensorboard import events_writer

CHECKPOINTS, HISTORY, CURVES = "checkpoints", "history.csv", "curves.png"
EVENTS, PREVIEWS = "tensorboard", "previews"


class RunFolder:
    """Context manager that holds `loop.output` for a run, and finds where the run goes on.

    The first rank locks the folder, removes what killed runs left half-written, and chooses the
    checkpoint. Enter it before anything that takes long.

    Args:
        loop: names the folder.
        identity: the configuration that a resumed run must match, such as the network's.
        rank: this process.

    On entry, ValueError is raised if the folder cannot be written to, is in use, holds another
    run, or has checkpoints of which none is whole; MissingExtraError where the package of the
    curves, or of `loop.tensorboard`, is not installed.
    """

    def __init__(self, loop: LoopConfig, identity: dict[str, Any], rank: Rank) -> None:
        self.loop, self.identity, self.rank = loop, identity, rank
        self.path = Path(loop.output).expanduser()
        self.checkpoints = self.path / CHECKPOINTS
        self.start = 0  # updates in the checkpoint to resume from, known to the first rank
        self._exit = ExitStack()

    def check(self) -> None:
        """Find `start` and raise errors as entering does, without writing or locking anything.

        Whether another run holds the folder is not looked at, and checkpoints are not read: only
        the identity of the newest one is compared.
        """
        figure_class()
        if self.loop.tensorboard:
            events_writer()
        self._check_writable()
        newest = checkpoint.latest(self.checkpoints)
        if newest is not None:
            self.start = checkpoint.check_identity(newest, self.identity)

    def __enter__(self) -> "RunFolder":
        figure_class()
        if self.loop.tensorboard:
            events_writer()
        self._check_writable()
        if self.rank.is_first:
            with ExitStack() as stack:
                stack.enter_context(FolderLock(self.path, "loop.output"))
                for name in ("", CHECKPOINTS, SNAPSHOTS, PREVIEWS):
                    remove_partial(self.path / name)
                self.start = checkpoint.newest_intact(self.checkpoints, self.identity)
                self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _check_writable(self) -> None:
        output = self.path.absolute()
        existing = next(part for part in (output, *output.parents) if part.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(
                f"`loop.output` must be a folder that can be written to, got {self.loop.output}: "
                f"{existing} is not a writable folder."
            )
