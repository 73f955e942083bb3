"""Run a program on several machines: the same command on each, with its own `--index`.

`several_machines.py --machines 2 --index 0 --master HOST train --config FILE key=value ...`

Folders of the recipe (data, weights, `loop.output`) must be the same on all machines: shared, or
copies. When a process dies, all machines end within a minute, and its rank is named where it ran.
"""

import argparse

from latte_ms.launching.command import launch
from latte_ms.launching.machines import Machines


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--machines", type=int, required=True, help="how many there are")
    parser.add_argument("--index", type=int, required=True, help="of this machine, from 0")
    parser.add_argument("--master", required=True, help="host name or IPv4 address of machine 0")


def main() -> None:
    launch(__doc__, lambda given: Machines(given.machines, given.index, given.master), options)


if __name__ == "__main__":
    main()
