"""Losses, model distribution and sampling loops of the reference, with its network and noise."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion import (
    ClassifierFreeGuidance,
    DiffusionLoss,
    DiffusionProcess,
    Schedule,
    ddim,
    ddpm,
)
from latte_ms.layers import kernels
from latte_ms.transformer.latte import Latte, LatteConfig
from latte_ms.weights import load

# Fixed before looking, relative to the largest reference value.
FORWARD, LOOP = 1e-5, 1e-4
Arrays = dict[str, np.ndarray]


class NoiseChannels(nn.Cell):
    """The network without its variance."""

    def __init__(self, denoise: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.denoise = denoise

    def construct(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return kernels.split_first(self.denoise(x, t, y), x.shape[2], 2)[0]


class ModelDistribution(nn.Cell):
    """q_sample, the network, and its distribution of the sample before."""

    def __init__(self, denoise: nn.Cell, schedule: Schedule) -> None:
        super().__init__(auto_prefix=False)
        self.denoise = denoise
        self.process = DiffusionProcess(schedule)

    def construct(
        self, x0: Tensor, noise: Tensor, index: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x_t = self.process.q_sample(x0, noise, index)
        output = self.denoise(x_t, self.process.timesteps(index), y)
        mean, variance, log_variance, clean = self.process.p_mean_variance(output, x_t, index)
        return x_t, mean, variance, log_variance, clean


@pytest.fixture(scope="module")
def expected(reference: Path) -> Arrays:
    with np.load(reference / "diffusion" / "io.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def latte(reference: Path) -> Latte:
    fields = json.loads((reference / "diffusion" / "config.json").read_text())["config"]
    assert fields.pop("extras") == 2
    network = Latte(LatteConfig(conditioning="class", **fields), seed=None)
    load(network, reference / "latte_class" / "checkpoint.pt", entry="ema")
    network.set_train(False)
    return network


def inputs(expected: Arrays) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        Tensor(expected["x0"]),
        Tensor(expected["noise"]),
        Tensor(expected["t"], ms.int32),
        Tensor(expected["y"], ms.int32),
    )


def error(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest error relative to the largest reference value."""
    assert value.shape == reference.shape
    return float(np.abs(value - reference).max() / np.abs(reference).max())


def test_model_distribution(latte: Latte, expected: Arrays) -> None:
    results = ModelDistribution(latte, Schedule.create())(*inputs(expected))
    names = ("q_sample", "pmv_mean", "pmv_variance", "pmv_log_variance", "pmv_pred_xstart")
    for name, result in zip(names, results, strict=True):
        assert error(result.asnumpy(), expected[name]) <= FORWARD, name


@pytest.mark.parametrize(
    ("kind", "terms", "options"),
    [
        ("mse", ("loss", "mse", "vb"), {}),
        ("rescaled", ("loss", "mse", "vb"), {"loss": "rescaled_mse"}),
        ("kl", ("loss",), {"loss": "rescaled_kl"}),  # the reference's switch means this one
        ("fixed", ("loss", "mse"), {"variance": "fixed_large"}),
        ("xstart", ("loss", "mse"), {"variance": "fixed_large", "prediction": "x0"}),
    ],
)
def test_losses(
    latte: Latte,
    expected: Arrays,
    kind: str,
    terms: tuple[str, ...],
    options: dict[str, str],
) -> None:
    denoise = NoiseChannels(latte) if "variance" in options else latte
    cell = DiffusionLoss(denoise, Schedule.create(), **options)
    results = dict(zip(("loss", "mse", "vb"), cell(*inputs(expected)), strict=True))
    for term in terms:
        assert error(results[term].asnumpy(), expected[f"loss_{kind}_{term}"]) <= FORWARD, term


def guided(latte: Latte, expected: Arrays) -> tuple[nn.Cell, tuple[Tensor, ...]]:
    """The network under guidance, and its conditions: label, "no class", scale.

    The reference samples the guided batch itself: its first half is the sample, its second half is
    thrown away.
    """
    label, null = expected["ys"]
    assert null == latte.config.num_classes
    conditions = (
        Tensor([label], ms.int32),
        Tensor([null], ms.int32),
        Tensor(expected["cfg_scale"], ms.float32),
    )
    return ClassifierFreeGuidance(latte, channels=latte.config.in_channels), conditions


def test_ddpm_loop_with_guidance(latte: Latte, expected: Arrays) -> None:
    denoise, conditions = guided(latte, expected)
    schedule = Schedule.create(respacing="5")
    noise = expected["ddpm_noise"][:, :1]
    *_, step = ddpm(denoise, expected["z"][:1], schedule, *conditions, noise=noise)
    assert error(step.x.asnumpy(), expected["ddpm_sample"][:1]) <= LOOP


def test_ddim_loop_with_guidance(latte: Latte, expected: Arrays) -> None:
    denoise, conditions = guided(latte, expected)
    *_, step = ddim(denoise, expected["z"][:1], Schedule.create(respacing="6"), *conditions)
    assert error(step.x.asnumpy(), expected["ddim6_sample"][:1]) <= LOOP
