"""An exact denoiser: the data are Gaussian, so noise and reverse variance are known in closed form.

The samplers are then checked against float64 formulas that share no code with them.
"""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels


class GaussianDenoiser(nn.Cell):
    """Exact eps, and exact variance values if learned, for data N(mean, std^2) per element.

    Its tables are indexed by the training timestep and hold NaN wherever the chain has no step: a
    sampler that passes its own index, or a neighbouring timestep, returns NaN.
    """

    def __init__(self, schedule: Schedule, std: float, learned: bool = False) -> None:
        super().__init__()
        alpha_bar = schedule.alphas_cumprod
        total = alpha_bar * std**2 + 1 - alpha_bar  # variance of x_t
        posterior = std**2 * (1 - alpha_bar) / total  # variance of x_0 given x_t
        reverse = schedule.posterior_variance + schedule.posterior_mean_coef1**2 * posterior
        low, high = schedule.posterior_log_variance_clipped, np.log(schedule.betas)
        values = 2 * (np.log(reverse) - low) / (high - low) - 1
        table = np.full((3, schedule.num_train_steps), np.nan)
        table[:, schedule.timestep_map] = np.stack(
            [np.sqrt(1 - alpha_bar) / total, np.sqrt(alpha_bar), values]
        )
        self.table = Tensor(table.astype(np.float32))
        self.learned = learned

    def construct(self, x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """x (B, F, C, H, W), t (B,), mean (B, 1, 1, 1, 1)."""
        columns = kernels.gather_columns(self.table, t)
        weight, signal, values = kernels.split(columns, 1, 0)
        eps = weight.reshape(mean.shape) * (x - signal.reshape(mean.shape) * mean)
        if not self.learned:
            return eps
        return kernels.concat((eps, 0.0 * eps + values.reshape(mean.shape)), 2)


@pytest.fixture(scope="session")
def gaussian() -> Callable[..., nn.Cell]:
    """The class above."""
    return GaussianDenoiser


@pytest.fixture(scope="session")
def means() -> Callable[..., np.ndarray]:
    """A condition: one mean per sample, (B, 1, 1, 1, 1) float32."""

    def make(*values: float) -> np.ndarray:
        return np.array(values, np.float32).reshape(-1, 1, 1, 1, 1)

    return make


class Method(nn.Cell):
    """Compiles one method of a process; its last argument, an index, becomes coefficients."""

    def __init__(self, owner: nn.Cell, name: str) -> None:
        super().__init__(auto_prefix=False)
        self.owner = owner
        self.method = getattr(owner, name)

    def construct(self, index: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
        return self.method(*args, self.owner.coefficients(index))


@pytest.fixture(scope="session")
def compiled() -> Callable[..., object]:
    """Runs `owner.name(*arrays, coefficients at the last array)` as one graph.

    float64 arrays become float32, int64 int32.
    """

    def run(owner: nn.Cell, name: str, *arrays: np.ndarray) -> object:
        kinds = {"f": ms.float32, "i": ms.int32}
        tensors = [Tensor(array, kinds[array.dtype.kind]) for array in map(np.asarray, arrays)]
        result = Method(owner, name)(tensors[-1], *tensors[:-1])
        if isinstance(result, tuple):
            return tuple(part.asnumpy() for part in result)
        return result.asnumpy()

    return run
