"""Loss terms against float64 formulas, and which parameters each term trains."""

import math
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.diffusion import loss as loss_module
from latte_ms.diffusion.loss import LOSSES, DiffusionLoss
from latte_ms.diffusion.schedule import Schedule
from latte_ms.layers import kernels

BOUND = 1e-5  # float32, relative to the largest value
SHAPE = (4, 2, 3, 4, 4)
INDEX = np.array([0, 1, 400, 999])


class Affine(nn.Cell):
    """Prediction a x and variance values b x: one parameter per half of the channels."""

    def __init__(self, learned: bool = True) -> None:
        super().__init__()
        self.a = Parameter(Tensor(0.3, ms.float32))
        self.b = Parameter(Tensor(0.6, ms.float32))
        self.learned = learned

    def construct(self, x: Tensor, t: Tensor) -> Tensor:
        if not self.learned:
            return self.a * x
        return kernels.concat((self.a * x, self.b * x), 2)


class Function(nn.Cell):
    """One of the loss module's functions, compiled."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = getattr(loss_module, name)

    def construct(self, *args: Tensor) -> Tensor:
        return self.function(*args)


def run(name: str, *arrays: np.ndarray) -> np.ndarray:
    return Function(name)(*[Tensor(array, ms.float32) for array in arrays]).asnumpy()


def close(value: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(value - expected).max() <= BOUND * np.abs(expected).max())


def kl(mean_p: np.ndarray, log_p: np.ndarray, mean_q: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return 0.5 * (
        log_q - log_p - 1 + np.exp(log_p - log_q) + (mean_p - mean_q) ** 2 / np.exp(log_q)
    )


def cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def likelihood(x: np.ndarray, mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    std = np.exp(log_variance / 2)
    upper, lower = cdf((x - mean + 1 / 255) / std), cdf((x - mean - 1 / 255) / std)
    probability = np.where(x < -0.999, upper, np.where(x > 0.999, 1 - lower, upper - lower))
    return np.log(np.maximum(probability, 1e-12))


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)


def terms(cell: DiffusionLoss, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    x0, noise = (Tensor(array, ms.float32) for array in arrays)
    return tuple(term.asnumpy() for term in cell(x0, noise, Tensor(INDEX, ms.int32)))


def expected_bound(arrays: tuple[np.ndarray, ...], prediction: str = "epsilon") -> np.ndarray:
    """Bits per dimension of the `Affine` denoiser in float64, term by term."""
    x0, noise = arrays
    chain = Schedule.create()

    def column(table: np.ndarray) -> np.ndarray:
        return table[INDEX].reshape(-1, 1, 1, 1, 1)

    alpha_bar = column(chain.alphas_cumprod)
    x_t = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * noise
    predicted, values = 0.3 * x_t, 0.6 * x_t
    estimate = predicted
    if prediction == "epsilon":
        estimate = (x_t - np.sqrt(1 - alpha_bar) * predicted) / np.sqrt(alpha_bar)
    weights = column(chain.posterior_mean_coef1), column(chain.posterior_mean_coef2)
    mean, true_mean = (weights[0] * clean + weights[1] * x_t for clean in (estimate, x0))
    low, high = column(chain.posterior_log_variance_clipped), column(np.log(chain.betas))
    log_variance = low + (values + 1) / 2 * (high - low)
    bound = kl(true_mean, low, mean, log_variance)
    bound[0] = -likelihood(x0, mean, log_variance)[0]
    return bound.mean((1, 2, 3, 4)) / math.log(2)


def test_normal_kl() -> None:
    rng = np.random.default_rng(1)
    p, log_p, q, log_q = rng.standard_normal((4, 1000))
    assert close(run("normal_kl", p, log_p, q, log_q), kl(p, log_p, q, log_q))
    assert np.abs(run("normal_kl", p, log_p, p, log_p)).max() <= 1e-6


def test_likelihood_of_inner_and_outer_bins() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(-1.5, 1.5, 2000).astype(np.float32)
    mean = x + 0.02 * rng.standard_normal(2000).astype(np.float32)
    log_variance = rng.uniform(-8, -6, 2000).astype(np.float32)
    result = run("discretised_log_likelihood", x, mean, log_variance)
    double = [array.astype(np.float64) for array in (x, mean, log_variance)]
    assert close(result, likelihood(*double))


def test_bins_sum_to_one() -> None:
    levels = np.arange(256) * 2 / 255 - 1
    for mean, std in ((0.1, 0.02), (-0.95, 0.1), (1.3, 0.5)):
        log_p = run(
            "discretised_log_likelihood",
            levels,
            np.full(256, mean),
            np.full(256, 2 * math.log(std)),
        )
        assert np.exp(log_p.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)


def test_unlikely_bins_are_rounded_as_the_reference_rounds_them() -> None:
    """Near 1 the distribution function moves in steps of 2^-24, and so does a bin's probability."""
    far = np.linspace(4.2, 5.2, 50)
    x, std = np.full(100, 0.25), np.full(100, 0.01)
    mean = x - np.concatenate([far, -far]) * std
    result = run("discretised_log_likelihood", x, mean, 2 * np.log(std))
    steps = np.exp(result.astype(np.float64)) * 2**25
    assert np.abs(steps - np.round(steps)).max() <= 0.01
    exact = np.exp(likelihood(x, mean, 2 * np.log(std))) * 2**25
    assert np.abs(steps - exact).max() <= 4
    assert run("discretised_log_likelihood", x, x - 8 * std, 2 * np.log(std)) == pytest.approx(
        math.log(1e-12)
    )


def test_bound_in_bits_with_likelihood_at_index_zero(arrays: tuple[np.ndarray, ...]) -> None:
    loss, error, bound = terms(DiffusionLoss(Affine(), Schedule.create()), arrays)
    assert loss.shape == error.shape == bound.shape == (4,)
    assert close(bound, expected_bound(arrays))
    assert close(loss, error + bound)
    alpha_bar = Schedule.create().alphas_cumprod[INDEX].reshape(-1, 1, 1, 1, 1)
    x_t = np.sqrt(alpha_bar) * arrays[0] + np.sqrt(1 - alpha_bar) * arrays[1]
    assert close(error, ((arrays[1] - 0.3 * x_t) ** 2).mean((1, 2, 3, 4)))


def test_clean_sample_as_target(arrays: tuple[np.ndarray, ...]) -> None:
    cell = DiffusionLoss(Affine(), Schedule.create(), prediction="x0")
    _, error, bound = terms(cell, arrays)
    assert close(bound, expected_bound(arrays, "x0"))
    alpha_bar = Schedule.create().alphas_cumprod[INDEX].reshape(-1, 1, 1, 1, 1)
    x_t = np.sqrt(alpha_bar) * arrays[0] + np.sqrt(1 - alpha_bar) * arrays[1]
    assert close(error, ((arrays[0] - 0.3 * x_t) ** 2).mean((1, 2, 3, 4)))


@pytest.mark.slow
def test_loss_names_scale_the_bound(arrays: tuple[np.ndarray, ...]) -> None:
    chain = Schedule.create(num_train_steps=2000)
    results = {loss: terms(DiffusionLoss(Affine(), chain, loss=loss), arrays) for loss in LOSSES}
    bound = results["kl"][2]
    error = results["mse"][1]
    assert close(results["mse"][0], error + bound)
    assert close(results["rescaled_mse"][0], error + 2 * bound)
    assert close(results["rescaled_mse"][2], 2 * bound)
    assert close(results["kl"][0], bound)
    assert close(results["rescaled_kl"][0], 2000 * bound)
    assert close(results["rescaled_kl"][2], bound)


def test_fixed_variance_is_the_error_alone(arrays: tuple[np.ndarray, ...]) -> None:
    cell = DiffusionLoss(Affine(learned=False), Schedule.create(), variance="fixed_large")
    loss, error, bound = terms(cell, arrays)
    assert np.array_equal(loss, error)
    assert not bound.any()


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_min_snr_weights_the_error_alone(arrays: tuple[np.ndarray, ...], prediction: str) -> None:
    """arXiv 2303.09556: min(snr, gamma) for x_0, over snr for the noise; gamma 5."""
    chain = Schedule.create()
    plain, weighted = (
        terms(DiffusionLoss(Affine(), chain, prediction=prediction, min_snr_gamma=gamma), arrays)
        for gamma in (0.0, 5.0)
    )
    snr = chain.alphas_cumprod[INDEX] / (1 - chain.alphas_cumprod[INDEX])
    weights = np.minimum(snr, 5.0) / (snr if prediction == "epsilon" else 1.0)
    assert weights.min() < 1 < weights.max() + 1e-9
    assert np.array_equal(weighted[1], plain[1])
    assert np.array_equal(weighted[2], plain[2])
    assert close(weighted[0], weights * plain[1] + plain[2])


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_the_contrast_is_with_the_next_sample(
    arrays: tuple[np.ndarray, ...], prediction: str
) -> None:
    chain, x0, noise = Schedule.create(), *arrays
    cell = DiffusionLoss(Affine(), chain, prediction=prediction, contrastive_weight=0.05)
    loss, error, bound = terms(cell, arrays)
    alpha_bar = chain.alphas_cumprod[INDEX].reshape(-1, 1, 1, 1, 1)
    predicted = 0.3 * (np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * noise)
    negative = np.roll(noise if prediction == "epsilon" else x0, -1, 0)
    distance = ((negative - predicted) ** 2).mean((1, 2, 3, 4))
    assert close(loss, error - 0.05 * distance + bound)


class Partners(nn.Cell):
    def construct(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return loss_module.partners(labels.shape[0], labels)


def test_partners_are_the_next_of_another_class() -> None:
    for labels in ([0, 0, 1, 2, 2], [3, 3, 3, 3, 3], [0, 1, 0, 1, 1], [7, 7, 7, 7, 2]):
        index, found = (part.asnumpy() for part in Partners()(Tensor(labels, ms.int32)))
        for i, label in enumerate(labels):
            after = [(i + k) % 5 for k in range(1, 5) if labels[(i + k) % 5] != label]
            assert found[i] == bool(after)
            assert not after or index[i] == after[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_snr_gamma": -1.0}, r"`min_snr_gamma` must be at least 0 and below inf, got -1.0"),
        ({"contrastive_weight": 1.0}, r"`contrastive_weight` must be .* below 1.0, got 1.0"),
        ({"min_snr_gamma": 5.0, "loss": "kl"}, r"`min_snr_gamma` .* must be 0 for `loss` kl"),
        ({"contrastive_weight": 0.1, "loss": "rescaled_kl"}, r"must be 0 for `loss` rescaled_kl"),
    ],
)
def test_options_that_are_not_possible_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionLoss(Affine(), Schedule.create(), **fields)


Gradients = Callable[[tuple[np.ndarray, ...]], list[float]]


def gradient_of(loss: str, term: int) -> Gradients:
    """A compiled d term / d (a, b), the term summed over the batch."""
    cell = DiffusionLoss(Affine(), Schedule.create(), loss=loss)

    def forward(x0: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        return ops.sum(cell(x0, noise, index)[term])

    function = ms.value_and_grad(forward, None, [cell.denoiser.a, cell.denoiser.b])

    def run_gradient(arrays: tuple[np.ndarray, ...]) -> list[float]:
        x0, noise = (Tensor(array, ms.float32) for array in arrays)
        _, (by_a, by_b) = function(x0, noise, Tensor(INDEX, ms.int32))
        return [float(by_a), float(by_b)]

    return run_gradient


@pytest.fixture(scope="module")
def gradients() -> dict[str, Gradients]:
    """Of the default loss, of its bound, and of the bound as the whole loss."""
    terms = {"mse": ("mse", 0), "bound": ("mse", 2), "kl": ("kl", 0)}
    return {name: gradient_of(*term) for name, term in terms.items()}


def test_the_bound_trains_the_variance_only(
    gradients: dict[str, Gradients], arrays: tuple[np.ndarray, ...]
) -> None:
    bound, loss = gradients["bound"](arrays), gradients["mse"](arrays)
    assert bound[0] == 0
    assert bound[1] != 0
    alpha_bar = Schedule.create().alphas_cumprod[INDEX].reshape(-1, 1, 1, 1, 1)
    x_t = np.sqrt(alpha_bar) * arrays[0] + np.sqrt(1 - alpha_bar) * arrays[1]
    error = (-2 * (arrays[1] - 0.3 * x_t) * x_t).mean((1, 2, 3, 4)).sum()
    assert loss == pytest.approx([error, bound[1]], rel=1e-5)


def test_a_bound_that_is_the_loss_trains_both(
    gradients: dict[str, Gradients], arrays: tuple[np.ndarray, ...]
) -> None:
    by_a, by_b = gradients["kl"](arrays)
    assert by_a != 0
    assert by_b == pytest.approx(gradients["bound"](arrays)[1], rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_gradients_stay_finite_far_from_the_model(
    gradients: dict[str, Gradients], arrays: tuple[np.ndarray, ...], loss: str
) -> None:
    """Both branches of the selection at index 0 are differentiated, also the unused one."""
    assert np.isfinite(gradients[loss]((30 * arrays[0], arrays[1]))).all()


def test_parameters_keep_their_names() -> None:
    cell = DiffusionLoss(Affine(), Schedule.create())
    assert [parameter.name for parameter in cell.trainable_params()] == ["a", "b"]


def test_the_network_sees_training_timesteps(gaussian: Callable[..., nn.Cell]) -> None:
    chain = Schedule.create(respacing="4")
    cell = DiffusionLoss(gaussian(chain, 0.5), chain, variance="fixed_small")
    x0 = Tensor(np.ones(SHAPE), ms.float32)
    mean = Tensor(np.ones((4, 1, 1, 1, 1)), ms.float32)
    loss, _, _ = cell(x0, 0 * x0, Tensor([0, 1, 2, 3], ms.int32), mean=mean)
    assert np.isfinite(loss.asnumpy()).all()  # the denoiser gives NaN off the chain


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"`loss` must be one of \['mse', .*\], got 'l1'"):
        DiffusionLoss(Affine(), Schedule.create(), loss="l1")
    cell = DiffusionLoss(Affine(learned=False), Schedule.create())
    ones = Tensor(np.ones(SHAPE), ms.float32)
    with pytest.raises(ValueError, match="must have 6 channels"):
        cell(ones, ones, Tensor(INDEX, ms.int32))
