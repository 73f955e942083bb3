"""A tiny Latte with one compiled training step, shared by all tests of training."""

from collections.abc import Iterator

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.schedule import Schedule
from latte_ms.training.batch import LatentBatch
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig
from latte_ms.training.step import TrainStep
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte

SIZES = {"input_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_frames": 4}
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, clip_max_norm=0.5, warmup_steps=2, ema_decay=0.9)


class Trainer:
    """A network and its step; `reset` brings back the state it was built with."""

    def __init__(
        self,
        recompute: bool = False,
        accumulate: int = 1,
        scale_loss: bool = False,
        **fields: object,
    ) -> None:
        config = LatteConfig(**{**SIZES, "num_classes": 3, **fields})  # type: ignore[arg-type]
        self.network = Latte(config)
        rng = np.random.default_rng(5)
        for parameter in self.network.trainable_params():  # adaLN-Zero starts with zero gradients
            parameter.set_data(Tensor(rng.normal(0.0, 0.1, parameter.shape).astype(np.float32)))
        if recompute:
            for block in self.network.blocks:
                block.recompute()
        self.optimizer = OPTIMIZER
        objective = DenoisingObjective(DiffusionLoss(self.network, Schedule.create()))
        step = TrainStep(objective, self.optimizer, scale_loss, accumulate=accumulate)
        self.step = step.set_train()
        self._start = self.state()

    def state(self) -> dict[str, np.ndarray]:
        """Weights, EMA and the state of the optimizer, by name."""
        parameters = {p.name: p for p in (*self.step.weights, *self.step.ema)}
        return {name: p.asnumpy().copy() for name, p in {**parameters, **self.step.state}.items()}

    def reset(self) -> None:
        parameters = {p.name: p for p in (*self.step.weights, *self.step.ema)}
        for name, parameter in {**parameters, **self.step.state}.items():
            parameter.set_data(Tensor(self._start[name]))


def numbered_batch(number: int, size: int, frames: int = 4) -> LatentBatch:
    """Batch `number`, with labels."""
    rng = np.random.default_rng((11, number))
    x0, noise = rng.standard_normal((2, size, frames, 4, 8, 8), np.float32)
    t = rng.integers(0, 1000, size, dtype=np.int32)
    return LatentBatch(x0, noise, t, {"y": rng.integers(0, 3, size, dtype=np.int32)})


def numbered_batches(start: int) -> Iterator[LatentBatch]:
    while True:
        yield numbered_batch(start, 2)
        start += 1


@pytest.fixture(scope="session")
def shared_trainer() -> Trainer:
    return Trainer(conditioning="class")


@pytest.fixture
def trainer(shared_trainer: Trainer) -> Trainer:
    """The shared class-conditional trainer in its first state; batches of 2."""
    shared_trainer.reset()
    return shared_trainer


@pytest.fixture(scope="session")
def new_trainer() -> type[Trainer]:
    return Trainer


@pytest.fixture
def batches() -> object:
    """From a batch's number, batches of 2 from there on, for class conditioning."""
    return numbered_batches


@pytest.fixture
def batch_of() -> object:
    """(number, size, frames) -> a batch."""
    return numbered_batch
