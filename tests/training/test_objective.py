"""The objective of a denoiser has the terms that its loss has, and no others."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.process import Variance
from latte_ms.diffusion.schedule import Schedule
from latte_ms.training.objective import DenoisingObjective


class Nothing(nn.Cell):
    """Predicts noise of zero."""

    def construct(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.0 * x


@pytest.mark.parametrize(
    ("loss", "variance", "terms"),
    [
        ("mse", "fixed_small", ("loss", "mse")),
        ("kl", "fixed_small", ("loss", "mse", "vb")),
        ("mse", "learned_range", ("loss", "mse", "vb")),
        ("rescaled_kl", "learned_range", ("loss", "mse", "vb")),
    ],
)
def test_a_bound_is_a_term_where_the_loss_needs_it(
    loss: str, variance: Variance, terms: tuple[str, ...]
) -> None:
    diffusion = DiffusionLoss(Nothing(), Schedule.create(), loss=loss, variance=variance)  # type: ignore[arg-type]
    assert DenoisingObjective(diffusion).term_names == terms


def test_without_a_bound_the_loss_is_the_squared_error() -> None:
    objective = DenoisingObjective(
        DiffusionLoss(Nothing(), Schedule.create(), variance="fixed_small")
    )
    x0, noise = np.random.default_rng(2).standard_normal((2, 3, 2, 4, 4, 4), np.float32)
    values = objective(Tensor(x0), Tensor(noise), Tensor(np.array([0, 500, 999], np.int32)))
    assert len(values) == len(objective.term_names)
    expected = np.mean(np.square(noise, dtype=np.float64))
    np.testing.assert_allclose([float(v.asnumpy()) for v in values], expected, rtol=1e-5)
