"""Guidance against a denoiser whose noise is linear in its condition."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion.guidance import ClassifierFreeGuidance
from latte_ms.diffusion.samplers import ddim
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels

SHAPE = (2, 3, 4, 5, 5)
Maker = Callable[..., nn.Cell]


class TwoConditions(nn.Cell):
    """Noise a * x + b and variance values b, so that every channel shows where it came from."""

    def construct(self, x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        steps = t.astype(ms.float32).reshape(-1, 1, 1, 1, 1)
        return kernels.concat((a * x + b + steps, 0.0 * x + b), 2)


def tensors(*arrays: np.ndarray | float) -> list[Tensor]:
    return [Tensor(array, ms.float32) for array in arrays]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def test_guidance_moves_the_condition(
    gaussian: Maker, means: Callable[..., np.ndarray], x: np.ndarray
) -> None:
    """The exact noise is linear in the mean: guiding equals denoising with the guided mean."""
    denoise = gaussian(Schedule.create(), 0.5)
    guided = ClassifierFreeGuidance(denoise, channels=4)
    t = Tensor([700, 20], ms.int32)
    y, null, scale = means(1, 2), means(-1, 0.5), 3.0
    result = guided(Tensor(x), t, *tensors(y, null, scale))
    expected = denoise(Tensor(x), t, *tensors(null + scale * (y - null)))
    error = np.abs(result.asnumpy() - expected.asnumpy()).max()
    assert error <= 1e-5 * np.abs(expected.asnumpy()).max()


def test_only_noise_channels_are_guided_and_pairs_travel_in_order(x: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    a, b, null_a, null_b = rng.standard_normal((4, SHAPE[0], 1, 1, 1, 1)).astype(np.float32)
    guided = ClassifierFreeGuidance(TwoConditions(), channels=4)
    t = np.array([3, 4])
    scale = np.array([7.0, 1.0], np.float32).reshape(-1, 1, 1, 1, 1)  # one per sample
    result = guided(Tensor(x), Tensor(t, ms.int32), *tensors(a, b, null_a, null_b, scale))
    noise, values = np.split(result.asnumpy(), [4], 2)
    steps = t.reshape(-1, 1, 1, 1, 1)
    conditional, null = a * x + b + steps, null_a * x + null_b + steps
    expected = null + scale * (conditional - null)
    assert np.abs(noise - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.array_equal(values, np.broadcast_to(b, SHAPE))
    assert result.shape == (2, 3, 8, 5, 5)  # the null half ends here


def test_scale_one_is_the_condition_alone(x: np.ndarray) -> None:
    conditions = [np.full((2, 1, 1, 1, 1), value, np.float32) for value in (1.5, 0.5, -1, 2)]
    t = Tensor([5, 6], ms.int32)
    plain = TwoConditions()(Tensor(x), t, *tensors(*conditions[:2])).asnumpy()
    guided = ClassifierFreeGuidance(TwoConditions())(Tensor(x), t, *tensors(*conditions, 1.0))
    assert np.abs(guided.asnumpy() - plain).max() <= 1e-5 * np.abs(plain).max()


class SecondCondition(nn.Cell):
    """A denoiser that takes None for its first condition."""

    def construct(self, x: Tensor, t: Tensor, a: Tensor | None, b: Tensor) -> Tensor:
        return x * b if a is None else x * a


def test_none_stays_none_in_a_sampler(x: np.ndarray) -> None:
    guided = ClassifierFreeGuidance(SecondCondition(), channels=4)
    b, null = np.full((2, 2, 1, 1, 1, 1), [[[[[[1.0]]]]], [[[[[0.5]]]]]], np.float32)
    chain = Schedule.create(respacing="1")
    scale = np.float32(3)
    *_, step = ddim(guided, x, chain, None, b, None, null, scale, variance="fixed_small")
    kept = chain.alphas_cumprod[0]  # x0 of the guided noise (0.5 + 3 (1 - 0.5)) x
    expected = (1 - np.sqrt(1 - kept) * 2.0) / np.sqrt(kept) * x
    assert np.abs(step.x.asnumpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_parameters_keep_their_names() -> None:
    denoise = nn.Dense(2, 2)
    before = [parameter.name for parameter in denoise.get_parameters()]
    wrapped = ClassifierFreeGuidance(denoise)
    assert [parameter.name for parameter in wrapped.get_parameters()] == before


def test_conditions_must_pair_up(x: np.ndarray) -> None:
    guided = ClassifierFreeGuidance(TwoConditions())
    t = Tensor([5, 6], ms.int32)
    with pytest.raises(ValueError, match="as many null conditions and a scale, got 2 tensors"):
        guided(Tensor(x), t, *tensors(np.ones((2, 1, 1, 1, 1)), 3.0))
    with pytest.raises(ValueError, match="`channels` must be at least 1, got 0"):
        ClassifierFreeGuidance(TwoConditions(), channels=0)
