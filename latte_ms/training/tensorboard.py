"""The rows of the history as scalars for TensorBoard."""

import os
import time
from pathlib import Path
from typing import Any

from latte_ms.atomic import writing
from latte_ms.extras import needs


def events_writer() -> tuple[Any, Any]:
    """tensorboardX's writer that writes at once, and its messages.

    Its `SummaryWriter` writes in a thread, where a full disk would go unnoticed.

    Raises MissingExtraError where it is not installed.
    """
    with needs("tensorboard", "`loop.tensorboard`"):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
    return EventsWriter, event_pb2


class EventFile:
    """A new file of events in `folder`; TensorBoard joins it to those from before a resume.

    Args:
        start_step: scalars of this step and later ones that were written before are not shown
            any more.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        writer, self._messages = events_writer()
        self.folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The name has the second; the suffix keeps apart what begins within one.
            self._file = writer(str(folder / "events"), f".{os.getpid()}.{start_step}")
            log = self._messages.SessionLog(status=self._messages.SessionLog.START)
            self._write(start_step, session_log=log)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write the values at `step`. Raises WriteError."""
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items()]
        with writing(self.folder):
            self._write(step, summary={"value": scalars})

    def close(self) -> None:
        """Close the file. Raises WriteError."""
        with writing(self.folder):
            self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._messages.Event(wall_time=time.time(), step=step, **content))
        self._file.flush()
