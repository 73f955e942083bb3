"""Run a program on the machines of a slurm job: `srun slurm.py train --config FILE key=value ...`.

srun must start one task on each machine (`--ntasks-per-node=1`); `slurm.sh` is a job that does so.
"""

import os

from latte_ms.launching.command import launch
from latte_ms.launching.machines import from_slurm


def main() -> None:
    launch(__doc__, lambda _: from_slurm(os.environ))


if __name__ == "__main__":
    main()
