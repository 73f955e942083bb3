"""The files of events, read by the format's description: length, checksum, message, checksum."""

import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latte_ms.atomic import WriteError
from latte_ms.runtime import Rank
from latte_ms.training import loop
from latte_ms.training.batch import LatentBatch
from latte_ms.training.history import read_history
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.run_folder import EVENTS, HISTORY, RunFolder
from latte_ms.training.tensorboard import EventFile

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(folder: Path) -> list[Any]:
    """All events but the first of each file, which has the version of the format."""
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, messages = path.read_bytes(), []
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            messages.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
        assert messages[0].file_version == "brain.Event:2"
        found += messages[1:]
    return found


def test_a_run_writes_the_columns_of_its_history(
    trainer: object, batches: Callable[[int], Iterator[LatentBatch]], tmp_path: Path
) -> None:
    for max_steps in (2, 3):
        settings = LoopConfig(str(tmp_path), max_steps, 2, log_every=1, tensorboard=True)
        with RunFolder(settings, {}, Rank()) as folder:
            terms = DenoisingObjective.term_names
            optimizer = trainer.optimizer
            loop.train(trainer.network, trainer.step, terms, batches, optimizer, folder)
    first, *rows = events(tmp_path / EVENTS)
    second = rows.pop(2)
    begun = event_pb2.SessionLog.START
    assert [(e.session_log.status, e.step) for e in (first, second)] == [(begun, 1), (begun, 3)]
    history = read_history(tmp_path / HISTORY)
    assert len(rows) == len(history) == 3
    for event, row in zip(rows, history, strict=True):
        assert event.step == row.pop("step")
        values = {value.tag: value.simple_value for value in event.summary.value}
        assert values == pytest.approx(row, rel=1e-5)


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events", 1)
    size = sum(path.stat().st_size for path in (tmp_path / "events").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(WriteError, match="events cannot be written: File too large"):
            file.append(1, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
