"""A folder of samples: one recipe, one run at a time, and a run that goes on where one was stopped.

`samples.json` in it records what its videos depend on. A video whose files are there is finished,
because files appear under their names only when they are complete.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.atomic import remove_partial
from latte_ms.config import read_json, write_json
from latte_ms.generation.video_files import VideoFiles
from latte_ms.messages import differences, shown
from latte_ms.parallel.communicator import Communicator
from latte_ms.parallel.lock import FolderLock
from latte_ms.runtime import Rank

RECORD, SHEET = "samples.json", "contact_sheet.png"
_KIND, _VERSION = "latte_ms samples", 1
_SHOWN = 5  # differences in a message
_DIGITS = 12  # of a checksum in a message


@dataclass(frozen=True)
class SampleRecord:
    """What the videos of a folder depend on.

    Attributes:
        settings: keys of the recipe, and checksums of the files that it names.
        sources: for messages, where the values behind the checksums in `settings` come from.
        count: number of videos; 0 where it does not matter.
        names: the name of each video's files -> the prompt that it stands for.
    """

    settings: dict[str, Any]
    sources: dict[str, str] = field(default_factory=dict)
    count: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def conflicts(self, now: "SampleRecord") -> list[str]:
        """Why videos of the record `now` do not belong to those of this one."""
        found = [
            f"{key} was {_described(self, key, old)}, is {_described(now, key, new)}"
            for key, old, new in differences(self.settings, json.loads(json.dumps(now.settings)))
        ]
        if now.count < self.count:
            found.append(f"num_videos was {self.count}, is {now.count}")
        for name, prompt in now.names.items():
            before = self.names.get(name, prompt)
            if before != prompt:
                found.append(f"{name} was the prompt {shown(before)}, is {shown(prompt)}")
        return found


class SampleFolder:
    """Context manager that holds `output` for a run of one or several ranks.

    The first rank locks the folder and removes what killed runs left half-written. Enter it before
    anything that takes long, and call `begin` before the first video.

    Args:
        path: the folder.
        files: how a video is written.
        rank: this process.

    On entry, ValueError is raised if another run is filling the folder.
    """

    def __init__(self, path: str | Path, files: VideoFiles, rank: Rank) -> None:
        self.path, self.files, self.rank = Path(path), files, rank
        self._exit = ExitStack()

    def __enter__(self) -> "SampleFolder":
        if self.rank.is_first:
            with ExitStack() as stack:
                stack.enter_context(FolderLock(self.path, "output"))
                remove_partial(self.path)
                self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def check(self, describe: Callable[[], SampleRecord], stems: Iterable[str]) -> None:
        """Raise ValueError for videos that `begin` would refuse, and change nothing.

        Args:
            describe: makes the record, of those settings that are known before anything is loaded;
                called on the first rank.
            stems: as in `begin`.
        """
        if not self.rank.is_first:
            return
        stored = read_record(self.path)
        if stored is None:
            self._refuse_unknown(stems)
        elif self._holds_videos():
            record = describe()
            known = {key: stored.settings[key] for key in record.settings if key in stored.settings}
            self._refuse_others(dataclasses.replace(stored, settings=known), record)

    def begin(self, describe: Callable[[], SampleRecord], stems: Iterable[str]) -> None:
        """Record what the videos depend on; all ranks call it and return when that is done.

        Args:
            describe: makes the record; called on the first rank.
            stems: names of the files of the videos to come, without suffixes.
        Raises:
            ValueError: the folder holds videos of another record, or of none, or not all ranks see
                it.
        """
        if self.rank.is_first:
            self._claim(describe(), stems)
        Communicator(self.rank).wait()
        if not (self.path / RECORD).is_file():
            raise ValueError(
                f"`output` (={self.path}) must be a folder that all machines of a run share."
            )

    def has(self, stem: str) -> bool:
        """Whether the video of this name is finished."""
        return self.files.are_saved(self.path / stem)

    def save(self, stem: str, frames: np.ndarray) -> None:
        """Write a video (F, H, W, 3) uint8, unless it is finished."""
        if not self.has(stem):
            self.files.save(self.path / stem, frames)

    def _claim(self, record: SampleRecord, stems: Iterable[str]) -> None:
        stored = read_record(self.path)
        if stored is None:
            self._refuse_unknown(stems)
        elif self._holds_videos():
            self._refuse_others(stored, record)
            record = dataclasses.replace(record, names=stored.names | record.names)
        write_json(
            self.path / RECORD, {"kind": _KIND, "version": _VERSION, **dataclasses.asdict(record)}
        )

    def _refuse_unknown(self, stems: Iterable[str]) -> None:
        places = (self.files.would_replace(self.path / stem) for stem in stems)
        taken = next(filter(None, places), None)
        if taken is not None:
            raise ValueError(
                f"`output` (={self.path}) holds {taken.name}, and no {RECORD} that says how it was "
                "made. Choose another folder, or remove what is there."
            )

    def _refuse_others(self, stored: SampleRecord, record: SampleRecord) -> None:
        found = stored.conflicts(record)
        if found:
            raise ValueError(
                f"`output` (={self.path}) holds videos of another recipe: "
                f"{'; '.join(found[:_SHOWN])}. Choose another folder, or the same values."
            )

    def _holds_videos(self) -> bool:
        names = (path.name for path in self.path.iterdir())
        return any(not name.startswith(".") and name not in (RECORD, SHEET) for name in names)


def read_record(folder: Path) -> SampleRecord | None:
    """The record in a folder; None where there is none.

    Raises ValueError, with its path, for a file that holds something else.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    values = read_json(path)
    try:
        if (values.pop("kind", None), values.pop("version", None)) != (_KIND, _VERSION):
            raise ValueError(f"it is no record of {_KIND} of version {_VERSION}")
        record = SampleRecord(**values)
        sections = (record.settings, record.sources, record.names)
        if not all(isinstance(section, dict) for section in sections):
            raise TypeError("`settings`, `sources` and `names` must be objects of fields")
        if type(record.count) is not int:
            raise TypeError("`count` must be a whole number")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {shown(str(error))}.") from None
    return record


def _described(record: SampleRecord, key: str, value: Any) -> str:
    if not (value and key in record.sources) or value == record.sources[key]:  # an id of the hub
        return shown(value)
    return f"{record.sources[key]} (SHA-256 {str(value)[:_DIGITS]}...)"
