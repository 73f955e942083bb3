"""A training run of a tiny Latte on made-up latents, for `kill_training.py` to break.

    python tools/tiny_training.py OUTPUT --max-steps 20 [--file-limit BYTES]
    python scripts/launch/one_machine.py --workers 2 tools/tiny_training.py OUTPUT --max-steps 20

It goes through the loop, the checkpoints and the errors of `scripts/train.py`; only the data are
made up, from the number of the batch and of the rank.
"""

import argparse
import resource
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from latte_ms import runtime
from latte_ms.config import exit_on_error
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.schedule import Schedule
from latte_ms.training import loop
from latte_ms.training.batch import LatentBatch
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig
from latte_ms.training.run_folder import RunFolder
from latte_ms.training.step import TrainStep
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte

SAVE_EVERY, KEEP = 4, 2
NETWORK = LatteConfig(input_size=4, hidden_size=8, depth=2, num_heads=2, num_frames=2)
UPDATING = "updating"  # printed after the first update
DISTRIBUTED = "runtime.distributed=true"
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, ema_decay=0.9)
IDENTITY = {"network": {"size": "tiny"}}


def main() -> None:
    args = parse_arguments()
    with exit_on_error():
        rank = setup(distributed=DISTRIBUTED in args.keys)
        network, step = build(rank)
        if args.file_limit >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
        with RunFolder(settings(args.output, args.max_steps), IDENTITY, rank) as folder:
            stream = partial(batches, rank=rank.index)
            loop.train(network, step, DenoisingObjective.term_names, stream, OPTIMIZER, folder)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--max-steps", type=int, required=True)
    parser.add_argument("--file-limit", type=int, default=-1, help="largest size of a file, bytes")
    parser.add_argument(
        "keys", nargs="*", choices=[[], DISTRIBUTED], help=f"{DISTRIBUTED}, which the launcher adds"
    )
    return parser.parse_intermixed_args()


def settings(output: Path, max_steps: int) -> LoopConfig:
    """A row of the history after each update, a checkpoint after every fourth."""
    return LoopConfig(
        output=str(output),
        max_steps=max_steps,
        batch_size=1,
        log_every=1,
        save_every=SAVE_EVERY,
        keep_checkpoints=KEEP,
    )


def setup(distributed: bool = False) -> runtime.Rank:
    """MindSpore on the CPU."""
    config = runtime.RuntimeConfig(device="CPU", jit_level="O0", distributed=distributed)
    return runtime.setup(config)


def build(rank: runtime.Rank) -> tuple[Latte, TrainStep]:
    """Network and step; not compiled yet. Their first weights are always the same."""
    network = Latte(NETWORK, seed=1)
    objective = DenoisingObjective(DiffusionLoss(network, Schedule.create()))
    return network, TrainStep(objective, OPTIMIZER, distributed=rank.count > 1)


def batches(start: int, rank: int = 0) -> Iterator[LatentBatch]:
    """Batches from number `start` on; each depends on its number and the rank alone."""
    for number in count(start):
        if number == start + 1:
            print(UPDATING, flush=True)
        rng = np.random.default_rng((7, rank, number))
        latents, noise = rng.standard_normal((2, 1, 2, 4, 4, 4), np.float32)
        yield LatentBatch(latents, noise, rng.integers(0, 1000, 1, dtype=np.int32), {})


if __name__ == "__main__":
    main()
