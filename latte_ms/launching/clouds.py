"""Data and outputs of Ascend clouds: folders before the start, copied back at the end.

ModelArts' moxing copies between folders and object storage; OpenI's c2net prepares folders and
uploads one. Neither can be installed elsewhere, so both are imported where they are used.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_ms.launching.command import PROGRAMS, Launch
from latte_ms.terminal import say

_REMOTE = ("obs://", "s3://")
_PREPARED = Path("C2NET")  # stands for the folder of c2net in a dry run


@dataclass(frozen=True)
class Storage:
    """Where the data of a job come from and its output goes to: folders or obs:// addresses."""

    data: str | None
    output: str | None
    cache: Path  # a local folder for copies

    def folder(self, address: str, name: str) -> Path:
        """The local folder that stands for `address`."""
        return self.cache / name if address.startswith(_REMOTE) else Path(address)


def with_folders(launch: Launch, data: Path | None, output: Path | None) -> Launch:
    """`launch` with these folders in its recipe and its logs in the output.

    Keys that the user gives win; where they are `encode`'s folder for captions, it gets none for
    latents. A program of the user's takes both folders as `train` does if its name begins so, and
    else the output as `sample` does.
    """
    name = launch.program.stem
    keys = PROGRAMS.get(name, PROGRAMS["train" if name.startswith("train") else "sample"])
    given = {"", *(argument.partition("=")[0] for argument in launch.arguments)}
    if "caption_cache.path" in given:
        given.add("latent_cache.path")
    pairs = zip(keys, (data, output), strict=True)
    more = [f"{key}={path}" for key, path in pairs if path and key not in given]
    logs = launch.log_dir if output is None else str(output / launch.log_dir)
    return dataclasses.replace(launch, arguments=(*launch.arguments, *more), log_dir=logs)


def launch_between(storage: Storage, launch: Launch, dry: bool) -> Launch | int:
    """Run with the folders of `storage`: copy in, run, copy out, whatever the exit status.

    Returns the exit status, or with `dry` what would be run. Only machine 0 copies the output out.
    """
    data = storage.folder(storage.data, "data") if storage.data else None
    output = storage.folder(storage.output, "output") if storage.output else None
    wanted = with_folders(launch, data, output)
    if dry:
        return wanted
    copy: Callable[[str, str], None] = _copier(storage)
    for address, folder in ((storage.data, data), (storage.output, output)):
        if address and address.startswith(_REMOTE):
            copy(address, str(folder))
    try:
        return wanted.run()
    finally:
        if storage.output and storage.output.startswith(_REMOTE) and launch.machines.index == 0:
            copy(str(output), storage.output)


def launch_in_openi(dataset: str, launch: Launch, dry: bool) -> Launch | int:
    """Run with the folders that c2net prepares, and upload the output, whatever the exit status.

    Returns the exit status, or with `dry` what would be run, whose folders are known only when
    c2net has prepared them: they are placeholders.

    Raises ValueError where c2net is missing or `dataset` is not among the datasets.
    """
    if dry:
        return with_folders(launch, _PREPARED / "dataset" / dataset, _PREPARED / "output")
    context, upload = _c2net()
    prepared = context()
    data, output = Path(prepared.dataset_path) / dataset, Path(prepared.output_path)
    if not data.is_dir():
        raise ValueError(f"`--dataset` is not a folder of {prepared.dataset_path}: {dataset!r}.")
    try:
        return with_folders(launch, data, output).run()
    finally:
        upload()


def _copier(storage: Storage) -> Callable[[str, str], None]:
    addresses = [a for a in (storage.data, storage.output) if a and a.startswith(_REMOTE)]
    try:
        import moxing
    except ImportError as error:
        if not addresses:
            return lambda source, target: None
        raise ValueError(
            f"{addresses[0]} needs the package moxing, which ModelArts' images have: name a folder "
            "instead, or let the job map the address to one."
        ) from error

    def copy(source: str, target: str) -> None:
        say(f"Copying {source} to {target}.")
        if moxing.file.exists(source):
            moxing.file.copy_parallel(source, target)

    return copy


def _c2net() -> tuple[Callable[[], Any], Callable[[], Any]]:
    try:
        from c2net.context import prepare, upload_output
    except ImportError as error:
        raise ValueError(
            "OpenI's package c2net is missing: pip install c2net, or start by one_machine.py."
        ) from error
    return prepare, upload_output
