"""Run a program in a training task of OpenI (Qizhi): `openi.py train --config FILE key=value ...`.

The package c2net, which the platform's images have, brings the datasets of the task to the machine
and takes the output away at the end. Keys of the recipe are set to its folders, such as `data.path`
and `loop.output` of `train`; `--dataset NAME` chooses one of several datasets.
"""

import argparse
import os
from functools import partial

from latte_ms.launching.clouds import launch_in_openi
from latte_ms.launching.command import Around, launch
from latte_ms.launching.machines import from_modelarts


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="", help="folder in the task's datasets")


def main() -> None:
    def start(given: argparse.Namespace) -> Around:
        return partial(launch_in_openi, given.dataset)

    launch(__doc__, lambda _: from_modelarts(os.environ), options, start)


if __name__ == "__main__":
    main()
