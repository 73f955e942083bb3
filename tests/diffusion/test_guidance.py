"""Guidance against a denoiser whose noise is linear in its condition."""

from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion.guidance import Guidance, GuidanceOptions, guidance_inputs
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels

SHAPE = (2, 3, 4, 5, 5)
Maker = Callable[..., nn.Cell]


class TwoConditions(nn.Cell):
    """Noise a * x + b and variance values b, so every channel shows which condition it used."""

    def construct(self, x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        steps = t.astype(ms.float32).reshape(-1, 1, 1, 1, 1)
        return kernels.concat((a * x + b + steps, 0.0 * x + b), 2)


def rows(*arrays: np.ndarray) -> Tensor:
    """One condition of both halves, the unconditional rows first."""
    return Tensor(np.concatenate(arrays), ms.float32)


def scalar(value: float) -> Tensor:
    return Tensor(value, ms.float32)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def test_guidance_equals_a_guided_condition(
    gaussian: Maker, means: Callable[..., np.ndarray], x: np.ndarray
) -> None:
    """The exact noise is linear in the mean: guiding equals denoising with the guided mean."""
    denoiser = gaussian(Schedule.create(), 0.5)
    guided = Guidance(denoiser, prediction_channels=4)
    t = Tensor([700, 20], ms.int32)
    y, null, scale = means(1, 2), means(-1, 0.5), 3.0
    result = guided(Tensor(x), t, scalar(scale), mean=rows(null, y))
    expected = denoiser(Tensor(x), t, mean=Tensor(null + scale * (y - null), ms.float32))
    error = np.abs(result.asnumpy() - expected.asnumpy()).max()
    assert error <= 1e-5 * np.abs(expected.asnumpy()).max()


@pytest.mark.parametrize("guided_channels", [None, 8])
def test_channels_after_the_guided_ones_are_conditional(
    x: np.ndarray, guided_channels: int | None
) -> None:
    rng = np.random.default_rng(1)
    a, b, null_a, null_b = rng.standard_normal((4, SHAPE[0], 1, 1, 1, 1)).astype(np.float32)
    guided = Guidance(TwoConditions(), 4, guided_channels)
    t = np.array([3, 4])
    scale = np.array([7.0, 1.0], np.float32).reshape(-1, 1, 1, 1, 1)  # one per sample
    result = guided(
        Tensor(x), Tensor(t, ms.int32), Tensor(scale), a=rows(null_a, a), b=rows(null_b, b)
    )
    noise, values = np.split(result.asnumpy(), [4], 2)
    steps = t.reshape(-1, 1, 1, 1, 1)
    conditional, null = a * x + b + steps, null_a * x + null_b + steps
    expected = null + scale * (conditional - null)
    assert np.abs(noise - expected).max() <= 1e-5 * np.abs(expected).max()
    variance = b if guided_channels is None else null_b + scale * (b - null_b)
    np.testing.assert_allclose(values, np.broadcast_to(variance, SHAPE), rtol=1e-5, atol=1e-6)
    assert result.shape == (2, 3, 8, 5, 5)  # the unconditional half ends here


def test_one_timestep_may_stand_for_all_rows(x: np.ndarray) -> None:
    conditions = {"a": rows(x[:, :1] * 0 + 2, x[:, :1]), "b": rows(x[:, :1], x[:, :1] * 0 + 1)}
    guided = Guidance(Broadcasting())
    one = guided(Tensor(x), Tensor([5], ms.int32), scalar(2.0), **conditions)
    both = guided(Tensor(x), Tensor([5, 5], ms.int32), scalar(2.0), **conditions)
    np.testing.assert_array_equal(one.asnumpy(), both.asnumpy())


class Broadcasting(TwoConditions):
    """Accepts a timestep per row, or one for all."""

    def construct(self, x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        steps = t.astype(ms.float32).broadcast_to((x.shape[0],)).reshape(-1, 1, 1, 1, 1)
        return a * x + b + steps


def test_scale_one_is_the_condition_alone(x: np.ndarray) -> None:
    a, b, null_a, null_b = (np.full((2, 1, 1, 1, 1), v, np.float32) for v in (1.5, 0.5, -1, 2))
    t = Tensor([5, 6], ms.int32)
    plain = TwoConditions()(Tensor(x), t, Tensor(a), Tensor(b)).asnumpy()
    guided = Guidance(TwoConditions())(
        Tensor(x), t, scalar(1.0), a=rows(null_a, a), b=rows(null_b, b)
    )
    assert np.abs(guided.asnumpy() - plain).max() <= 1e-5 * np.abs(plain).max()


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rescaling_restores_the_standard_deviation(x: np.ndarray, share: float) -> None:
    """The formula of arXiv 2305.08891, section 3.4, in float64: per video, for the noise only."""
    rng = np.random.default_rng(2)
    a, b, null_a, null_b = rng.standard_normal((4, SHAPE[0], 1, 1, 1, 1)).astype(np.float32)
    result = Guidance(TwoConditions())(
        Tensor(x),
        Tensor([3, 4], ms.int32),
        scalar(6.0),
        scalar(share),
        a=rows(null_a, a),
        b=rows(null_b, b),
    ).asnumpy()
    steps = np.array([3, 4]).reshape(-1, 1, 1, 1, 1)
    conditional = (a * x + b + steps).astype(np.float64)
    null = (null_a * x + null_b + steps).astype(np.float64)
    guided = null + 6.0 * (conditional - null)
    axes = (1, 2, 3, 4)
    ratio = conditional.std(axes, keepdims=True) / guided.std(axes, keepdims=True)
    expected = share * guided * ratio + (1 - share) * guided
    assert np.abs(result[:, :, :4] - expected).max() <= 1e-5 * np.abs(expected).max()
    np.testing.assert_array_equal(result[:, :, 4:], np.broadcast_to(b, SHAPE))


def test_options_that_are_off_are_left_out() -> None:
    """A graph without them does not compute them."""

    @dataclass(frozen=True)
    class Options(GuidanceOptions):
        guidance_scale: float = 4.0

    assert list(guidance_inputs(Options())) == ["guidance_scale"]
    on = guidance_inputs(Options(guidance_rescale=0.5))
    assert {name: float(value) for name, value in on.items()} == {
        "guidance_scale": 4.0,
        "guidance_rescale": 0.5,
    }


def test_parameters_keep_their_names() -> None:
    denoiser = nn.Dense(2, 2)
    before = [parameter.name for parameter in denoiser.get_parameters()]
    assert [parameter.name for parameter in Guidance(denoiser).get_parameters()] == before


def test_channels_are_checked() -> None:
    with pytest.raises(ValueError, match="`prediction_channels` must be at least 1, got 0"):
        Guidance(TwoConditions(), prediction_channels=0)
