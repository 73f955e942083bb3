"""Run a program in a training job of ModelArts, on one or several machines.

`modelarts.py --data_url DATA --train_url OUTPUT train --config FILE key=value ...`

The platform adds the two options when the job has an input and an output of these names. Folders
are used as they are; `obs://` addresses are copied by moxing, which the platform's images have: the
data and an earlier output before the start, so that a job resumes, and the output at the end. Keys
of the recipe are set to the folders, such as `data.path` and `loop.output` of `train`. Where the
platform starts a program once per device, the one of device 0 goes on.
"""

import argparse
import os
from functools import partial
from pathlib import Path

from latte_ms.launching.clouds import Storage, launch_between
from latte_ms.launching.command import Around, launch
from latte_ms.launching.machines import from_modelarts


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_url", help="folder or obs:// address of the videos")
    parser.add_argument("--train_url", help="folder or obs:// address of the output")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("/cache"),
        help="local folder for what is copied (default: %(default)s)",
    )


def main() -> None:
    def start(given: argparse.Namespace) -> Around:
        return partial(launch_between, Storage(given.data_url, given.train_url, given.cache))

    if "RANK_TABLE_FILE" in os.environ and os.environ.get("ASCEND_DEVICE_ID", "0") != "0":
        return
    launch(__doc__, lambda _: from_modelarts(os.environ), options, start)


if __name__ == "__main__":
    main()
