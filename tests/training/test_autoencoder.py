"""The autoencoder's objective: its terms, and its gradients with and without fusion."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor, nn

from latte_ms.runtime import RuntimeConfig, setup
from latte_ms.training.autoencoder import AutoencoderObjective
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.configuration import AutoencoderConfig

KL_WEIGHT = 0.01


class LossAndGradients(nn.Cell):
    """(loss, reconstruction, KL), and the gradient of the loss by every parameter."""

    def __init__(self, reconstruction: str) -> None:
        super().__init__(auto_prefix=False)
        # Images large enough for the loops that fusion once got wrong, attention included.
        config = AutoencoderConfig(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4
        )
        self.network = AutoencoderKL(config, seed=3)
        objective = AutoencoderObjective(self.network, KL_WEIGHT, reconstruction)
        self.weights = ParameterTuple(objective.trainable_params())
        self.gradient = ms.value_and_grad(objective, None, self.weights, has_aux=True)

    def construct(self, pixels: Tensor, noise: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        return self.gradient(pixels, noise)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (4, 3, 16, 16)).astype(np.float32)
    return pixels, rng.standard_normal((4, 4, 8, 8)).astype(np.float32)


def gradients(reconstruction: str) -> dict[str, np.ndarray]:
    cell = LossAndGradients(reconstruction)
    _, values = cell(*map(Tensor, batch()))
    return {p.name: g.asnumpy() for p, g in zip(cell.weights, values, strict=True)}


@pytest.fixture(scope="module")
def cell() -> LossAndGradients:
    return LossAndGradients("squared")


@pytest.mark.slow
def test_terms(cell: LossAndGradients) -> None:
    pixels, noise = batch()
    (loss, reconstruction, kl), _ = cell(Tensor(pixels), Tensor(noise))
    decoded, mean, log_variance = (
        value.asnumpy().astype(np.float64) for value in cell.network(Tensor(pixels), Tensor(noise))
    )
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).mean()
    np.testing.assert_allclose(float(reconstruction), ((decoded - pixels) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(float(kl), divergence, rtol=1e-5)
    np.testing.assert_allclose(
        float(loss), float(reconstruction) + KL_WEIGHT * float(kl), rtol=1e-6
    )


@pytest.mark.slow
def test_absolute_error(cell: LossAndGradients) -> None:
    pixels, noise = map(Tensor, batch())
    absolute = AutoencoderObjective(cell.network, 0.0, "absolute")
    decoded = cell.network(pixels, noise)[0].asnumpy()
    expected = np.abs(decoded - pixels.asnumpy()).mean()
    np.testing.assert_allclose(float(absolute(pixels, noise)[0]), expected, rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_those_without_fusion(cell: LossAndGradients, tmp_path: Path) -> None:
    """Every parameter's gradient against a process that runs kernel by kernel."""
    path = tmp_path / "unfused.npz"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__, str(path)], check=True, timeout=300, env=environment)
    unfused = np.load(path)
    _, values = cell(*map(Tensor, batch()))
    for parameter, value in zip(cell.weights, values, strict=True):
        expected = unfused[parameter.name]
        # A key's bias shifts all scores of a row alike: its gradient is zero up to rounding.
        floor = 1e-6 if parameter.name.endswith("key.bias") else 0.0
        error = np.abs(value.asnumpy() - expected).max()
        assert error <= 1e-4 * np.abs(expected).max() + floor, parameter.name


@pytest.mark.parametrize(
    ("kl_weight", "reconstruction", "message"),
    [
        (-1.0, "squared", "`kl_weight` must not be negative"),
        (0.0, "cubed", "`reconstruction` must"),
    ],
)
def test_errors(kl_weight: float, reconstruction: str, message: str) -> None:
    network = AutoencoderKL(
        AutoencoderConfig(block_out_channels=(8,), norm_num_groups=4), seed=None
    )
    with pytest.raises(ValueError, match=message):
        AutoencoderObjective(network, kl_weight, reconstruction)


if __name__ == "__main__":
    setup(RuntimeConfig(jit_level="O0"))
    np.savez(sys.argv[1], **gradients("squared"))
