"""Run a program on all devices of this machine: `one_machine.py train --config FILE key=value ...`.

When a process dies, all end within a minute, and its rank is named with the end of its log.
"""

from latte_ms.launching.command import launch
from latte_ms.launching.machines import Machines


def main() -> None:
    launch(__doc__, lambda _: Machines())


if __name__ == "__main__":
    main()
