"""AdamW, clipping, EMA and the learning rate, against torch and against plain numpy."""

from collections.abc import Iterator

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.training.optimizer import OptimizerConfig, learning_rate, step_factors
from latte_ms.training.step import TrainStep

SHAPES = ((3, 4), (5,))
STEPS = 8
CONFIG = OptimizerConfig(
    learning_rate=3e-2,
    beta1=0.8,
    beta2=0.95,
    weight_decay=0.05,
    warmup_steps=3,
    decay_steps=7,
    clip_max_norm=1.5,
    clip_start_step=2,
    ema_decay=0.7,
)


class Products(nn.Cell):
    """sum(w * g): the gradient of the weights is exactly g."""

    def __init__(self) -> None:
        super().__init__()
        start = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(SHAPES)]
        self.first = Parameter(Tensor(start[0].astype(np.float32)), "first")
        self.second = Parameter(Tensor(start[1].astype(np.float32)), "second")

    def construct(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        loss = ops.sum(self.first * first) + ops.sum(self.second * second)
        return loss, loss * 2.0


def gradients(step: int) -> list[np.ndarray]:
    """Of very different lengths, so that some are clipped and some are not."""
    rng = np.random.default_rng((1, step))
    return [rng.normal(size=shape).astype(np.float32) * 4.0 ** (step % 3 - 1) for shape in SHAPES]


@pytest.fixture(scope="module")
def run() -> list[dict[str, list[np.ndarray]]]:
    """Weights, EMA and the reported norm after each step."""
    cell = Products()
    step = TrainStep(cell, CONFIG)
    after = [{"weights": [w.asnumpy().copy() for w in step.weights]}]
    for number in range(STEPS):
        results = step(
            step_factors(CONFIG, number).tensor(), *(Tensor(g) for g in gradients(number))
        )
        after.append(
            {
                "weights": [w.asnumpy().copy() for w in step.weights],
                "ema": [e.asnumpy().copy() for e in step.ema],
                "norm": [results[-1].asnumpy()],
            }
        )
    return after


def close(ours: np.ndarray, reference: np.ndarray) -> None:
    assert np.abs(ours - reference).max() <= 1e-5 * np.abs(reference).max()


def averaged(start: list[np.ndarray], steps: list[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    ema = [w.astype(np.float64) for w in start]
    for weights in steps:
        ema = [
            CONFIG.ema_decay * e + (1 - CONFIG.ema_decay) * w
            for e, w in zip(ema, weights, strict=True)
        ]
        yield ema


def check(run: list[dict[str, list[np.ndarray]]], reference: list[list[np.ndarray]]) -> None:
    emas = list(averaged(run[0]["weights"], reference))
    for after, weights, ema in zip(run[1:], reference, emas, strict=True):
        for ours, theirs in zip(after["weights"], weights, strict=True):
            close(ours, theirs)
        for ours, theirs in zip(after["ema"], ema, strict=True):
            close(ours, theirs)


def test_updates_equal_the_written_equations(run: list[dict[str, list[np.ndarray]]]) -> None:
    weights = [w.astype(np.float64) for w in run[0]["weights"]]
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    reference = []
    for number in range(STEPS):
        grads = [g.astype(np.float64) for g in gradients(number)]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        if number >= CONFIG.clip_start_step:
            grads = [g * min(1.0, CONFIG.clip_max_norm / (norm + 1e-6)) for g in grads]
        rate, n = learning_rate(CONFIG, number), number + 1
        for i, g in enumerate(grads):
            first[i] = CONFIG.beta1 * first[i] + (1 - CONFIG.beta1) * g
            second[i] = CONFIG.beta2 * second[i] + (1 - CONFIG.beta2) * g**2
            m, v = first[i] / (1 - CONFIG.beta1**n), second[i] / (1 - CONFIG.beta2**n)
            weights[i] = weights[i] * (1 - rate * CONFIG.weight_decay)
            weights[i] = weights[i] - rate * m / (np.sqrt(v) + CONFIG.epsilon)
        reference.append(list(weights))
    check(run, reference)


def test_updates_equal_those_of_torch(run: list[dict[str, list[np.ndarray]]]) -> None:
    import torch

    weights = [torch.nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in run[0]["weights"]]
    optimizer = torch.optim.AdamW(
        weights,
        betas=(CONFIG.beta1, CONFIG.beta2),
        eps=CONFIG.epsilon,
        weight_decay=CONFIG.weight_decay,
    )
    reference = []
    for number in range(STEPS):
        for weight, gradient in zip(weights, gradients(number), strict=True):
            weight.grad = torch.tensor(gradient, dtype=torch.float64)
        if number >= CONFIG.clip_start_step:
            torch.nn.utils.clip_grad_norm_(weights, CONFIG.clip_max_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(CONFIG, number)
        optimizer.step()
        reference.append([w.detach().numpy().copy() for w in weights])
    check(run, reference)


def test_the_norm_is_reported_before_clipping(run: list[dict[str, list[np.ndarray]]]) -> None:
    norms = [
        np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients(i))) for i in range(STEPS)
    ]
    assert min(norms) < CONFIG.clip_max_norm < max(norms)
    close(np.array([after["norm"][0] for after in run[1:]]), np.array(norms))


def test_the_rate_rises_linearly_and_falls_along_a_half_cosine_to_zero() -> None:
    config = OptimizerConfig(learning_rate=0.4, warmup_steps=4, decay_steps=14)
    rates = [learning_rate(config, step) for step in (0, 1, 3, 4, 9, 14, 500)]
    assert rates == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.2, 0.0, 0.0], abs=1e-12)


def test_the_rate_is_constant_by_default() -> None:
    config = OptimizerConfig(learning_rate=0.3)
    assert [learning_rate(config, step) for step in (0, 10**6)] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("learning_rate", float("nan")),
        ("clip_max_norm", float("inf")),
        ("weight_decay", float("nan")),
        ("epsilon", 0.0),
        ("weight_decay", -1e-3),
        ("warmup_steps", -1),
        ("decay_steps", -5),
        ("clip_max_norm", 0.0),
        ("clip_start_step", -1),
        ("ema_decay", 1.0),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"`optimizer.{field}`.*{value}"):
        OptimizerConfig(**{field: value})


def test_a_decay_that_ends_before_the_warm_up_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"`optimizer.decay_steps` \(=5\).*`optimizer.warmup_steps` \(=5\)"
    ):
        OptimizerConfig(warmup_steps=5, decay_steps=5)
