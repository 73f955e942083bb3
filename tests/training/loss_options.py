"""Every option of the loss in one network and its step, and the same updates in PyTorch.

The reference is a Latte of its own (`tools/reference_latte.py`) and the formulas of the papers,
written here.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mindspore import Tensor

from latte_ms import weights
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.schedule import Schedule
from latte_ms.parallel.communicator import Communicator
from latte_ms.runtime import Rank
from latte_ms.training.alignment import Alignment
from latte_ms.training.batch import LatentBatch
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.step import TrainStep
from latte_ms.training.timesteps import LossHistory, TimestepSampler
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from tools import reference_latte

BATCH, STEPS, GAMMA, CONTRAST, ALIGN, GAP = 4, 25, 2.0, 0.05, 0.3, 6
STUDENT, TEACHER = 1, 2  # blocks: a spatial and a temporal one
CONFIG = LatteConfig(
    input_size=8, hidden_size=16, depth=2, num_heads=2, num_frames=4, num_classes=3,
    conditioning="class",
)  # fmt: skip
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3,
    clip_max_norm=1e9,
    ema_decay=0.9,
    ema_warmup=True,
    ema_start_step=2,
    ema_sigma_rels=(0.05,),
    ema_snapshot_every=2,
)


class AllOptions:
    """A network and its step with every option of the loss."""

    def __init__(self) -> None:
        self.network = Latte(CONFIG)
        rng = np.random.default_rng(5)
        for parameter in self.network.trainable_params():
            parameter.set_data(Tensor(rng.normal(0.0, 0.1, parameter.shape).astype(np.float32)))
        loss = DiffusionLoss(
            self.network,
            Schedule.create(STEPS),
            min_snr_gamma=GAMMA,
            contrastive_weight=CONTRAST,
        )
        self.alignment = Alignment(
            Latte(CONFIG, seed=None), CONFIG.hidden_size, STUDENT, TEACHER, ALIGN, seed=1
        )
        self.timesteps = TimestepSampler(STEPS, LossHistory(STEPS), GAP, Communicator(Rank()))
        objective = DenoisingObjective(loss, self.alignment, per_sample=True)
        self.step = TrainStep(
            objective,
            OPTIMIZER,
            teacher=self.alignment.teacher_parameters,
            timestep_sampler=self.timesteps,
        ).set_train()
        self.term_names = objective.term_names
        self.start = self.state()

    def parameters(self) -> dict[str, object]:
        found = {p.name: p for p in (*self.step.weights, *self.step.ema)}
        return {**found, **self.step.state}

    def state(self) -> dict[str, np.ndarray]:
        arrays = {name: p.asnumpy() for name, p in self.parameters().items()}
        return {name: a.copy() for name, a in {**arrays, **self.timesteps.state}.items()}

    def reset(self) -> None:
        """Its first state, with a history that makes the first timesteps rare."""
        for name, parameter in self.parameters().items():
            parameter.set_data(Tensor(self.start[name]))
        losses = np.random.default_rng(3).uniform(0.1, 1.0, (STEPS, 10)).astype(np.float32)
        losses *= np.linspace(0.2, 2.0, STEPS, dtype=np.float32)[:, None]
        counts = np.full(STEPS, 10, np.int32)
        self.timesteps.load({"timestep_losses": losses, "timestep_counts": counts})

    def update(self, number: int, batch: LatentBatch) -> list[float]:
        """Scalars and gradient norm of update `number`."""
        parts, norm = self.step.update_from_batches(step_factors(OPTIMIZER, number), [batch])
        return [*(float(scalar.asnumpy()) for scalar in parts[0]), float(norm.asnumpy())]


def batch_of(number: int, **changes: object) -> LatentBatch:
    """Batch `number`; labels repeat within it, and in every third batch all are the same."""
    rng = np.random.default_rng((17, number))
    x0, noise = rng.standard_normal((2, BATCH, 4, 4, 8, 8), np.float32)
    y = np.zeros(BATCH, np.int32) if number % 3 == 2 else rng.integers(0, 2, BATCH, np.int32)
    fields = {"conditions": {"y": y}, "uniform": rng.random((BATCH, 2)), **changes}
    return LatentBatch(x0, noise, np.zeros(BATCH, np.int32), **fields)  # type: ignore[arg-type]


def batches(start: int) -> Iterator[LatentBatch]:
    while True:
        yield batch_of(start)
        start += 1


class Reference:
    """The same updates in PyTorch."""

    def __init__(self, trainer: AllOptions, folder: Path) -> None:
        weights.save(trainer.network, folder / "start.pt", "")
        state = torch.load(folder / "start.pt")
        self.network, self.teacher = (reference_latte.Latte(CONFIG) for _ in range(2))
        for network in (self.network, self.teacher):
            network.load_state_dict(state)
        head = trainer.alignment.head
        size = CONFIG.hidden_size
        self.head = torch.nn.Sequential(
            torch.nn.Linear(size, 2 * size), torch.nn.SiLU(), torch.nn.Linear(2 * size, size)
        )
        for ours, theirs in ((head.linear_1, self.head[0]), (head.linear_2, self.head[2])):
            theirs.weight.data = torch.tensor(ours.weight.asnumpy().copy())
            theirs.bias.data = torch.tensor(ours.bias.asnumpy().copy())
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.trained = [*trained, *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, OPTIMIZER.learning_rate, weight_decay=0.0)
        self.losses = [list(row) for row in trainer.timesteps.history.losses]
        self.schedule = Schedule.create(STEPS)

    def draw(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Timesteps by LossSecondMomentResampler, their importance, and the teacher's."""
        roots = np.array(
            [np.sqrt(np.mean(np.square(row, dtype=np.float64))) for row in self.losses]
        )
        p = roots / roots.sum() * 0.999 + 0.001 / STEPS
        t = np.array([next(i for i in range(STEPS) if u < p[: i + 1].sum()) for u in uniform[:, 0]])
        gap = np.floor(uniform[:, 1] * (GAP + 1)).astype(int)
        return t, 1 / (STEPS * p[t]), np.maximum(t - gap, 0)

    def at(self, table: np.ndarray, t: np.ndarray) -> torch.Tensor:
        return torch.tensor(table[t], dtype=torch.float32).reshape(-1, 1, 1, 1, 1)

    def tokens(self, network: torch.nn.Module, blocks: int, *inputs: torch.Tensor) -> tuple:
        """Output, and the tokens (B, F, N, D) after the first block or both."""
        found: list[torch.Tensor] = []
        hook = network.blocks[blocks - 1].register_forward_hook(lambda *call: found.append(call[2]))
        output = network(*inputs)
        hook.remove()
        tokens, frames = found[0], CONFIG.num_frames  # (B F, N, D), temporal (B N, F, D)
        if blocks == 1:
            return output, tokens.reshape(BATCH, frames, -1, CONFIG.hidden_size)
        return output, tokens.reshape(BATCH, -1, frames, CONFIG.hidden_size).transpose(1, 2)

    def noised(self, batch: LatentBatch, t: np.ndarray) -> torch.Tensor:
        bar = self.schedule.alphas_cumprod
        x0, noise = torch.tensor(batch.latents), torch.tensor(batch.noise)
        return self.at(np.sqrt(bar), t) * x0 + self.at(np.sqrt(1 - bar), t) * noise

    def values(self, batch: LatentBatch, t: np.ndarray, t_teacher: np.ndarray) -> list:
        """Per sample: loss, squared error, variational bound, alignment."""
        y, bar = torch.tensor(batch.conditions["y"]), self.schedule.alphas_cumprod
        x_t, noise = self.noised(batch, t), torch.tensor(batch.noise)
        output, tokens = self.tokens(self.network, STUDENT, x_t, torch.tensor(t), y)
        prediction, values = output.chunk(2, dim=2)
        error = ((noise - prediction) ** 2).mean((1, 2, 3, 4))
        negatives = []
        for i in range(
            BATCH
        ):  # arXiv 2506.05350, equation 6, with the next sample of another class
            others = [(i + k) % BATCH for k in range(1, BATCH) if y[(i + k) % BATCH] != y[i]]
            distance = (
                ((noise[others[0]] - prediction[i]) ** 2).mean() if others else 0.0 * error[i]
            )
            negatives.append(distance)
        snr = bar / (1 - bar)
        weight = self.at(np.minimum(snr, GAMMA) / snr, t).reshape(-1)
        bound = self.bound(batch, t, x_t, prediction.detach(), values)
        with torch.no_grad():
            x_teacher = self.noised(batch, t_teacher)
            inputs = (x_teacher, torch.tensor(t_teacher), y)
            _, wanted = self.tokens(self.teacher, TEACHER, *inputs)
        align = torch.nn.functional.smooth_l1_loss(
            self.head(tokens), wanted, beta=0.05, reduction="none"
        ).mean((1, 2, 3))
        loss = weight * (error - CONTRAST * torch.stack(negatives)) + bound + ALIGN * align
        return [loss, error, bound, align]

    def bound(self, batch: LatentBatch, t: np.ndarray, x_t: torch.Tensor, *output: torch.Tensor):
        """Improved DDPM's KL term in bits, for t above 0, with no gradient to the mean."""
        prediction, values = output
        s = self.schedule
        ratio = np.sqrt(1 / s.alphas_cumprod - 1)
        clean = self.at(np.sqrt(1 / s.alphas_cumprod), t) * x_t - self.at(ratio, t) * prediction
        low = self.at(s.posterior_log_variance_clipped, t)
        log_variance = low + 0.5 * (values + 1) * (self.at(np.log(s.betas), t) - low)
        miss = self.at(s.posterior_mean_coef1, t) * (torch.tensor(batch.latents) - clean)
        kl = (
            log_variance
            - low
            - 1
            + torch.exp(low - log_variance)
            + miss**2 * torch.exp(-log_variance)
        )
        return 0.5 * kl.mean((1, 2, 3, 4)) / math.log(2)

    def update(self, number: int, batch: LatentBatch) -> list[float]:
        t, importance, t_teacher = self.draw(batch.uniform)
        assert t.min() > 0, "the reference has no likelihood at 0"
        values = self.values(batch, t, t_teacher)
        factors = torch.tensor(importance, dtype=torch.float32)
        means = [(value * factors).mean() for value in values]
        self.optimizer.zero_grad()
        means[0].backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in self.trained if p.grad is not None))
        self.optimizer.step()
        m = number + 1 - OPTIMIZER.ema_start_step
        decay = 0.0 if m <= 0 else min(OPTIMIZER.ema_decay, (1 + m) / (10 + m))
        for mean, weight in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            mean.data = decay * mean.data + (1 - decay) * weight.data
        for at, loss in zip(t, values[0].detach().numpy(), strict=True):
            self.losses[at] = [*self.losses[at][1:], loss]
        return [*(float(mean.detach()) for mean in means), float(norm)]
