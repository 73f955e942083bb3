"""Samplers on Gaussian data, where exact results are known in float64."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.diffusion import samplers
from latte_ms.diffusion.noise import generators, noise_blocks, standard_normal
from latte_ms.diffusion.samplers import (
    DDIM,
    DDPM,
    SAMPLERS,
    DDIMInversion,
    Run,
    Sampler,
    denoise,
)
from latte_ms.diffusion.schedule import Schedule

FRAME = (2, 4, 8, 8)
STD = 0.5
LOOP_BOUND = 1e-4  # float32 over a whole loop, relative to the largest value
Maker = Callable[..., nn.Cell]
Means = Callable[..., np.ndarray]
FIXED = {"variance": "fixed_small"}


def last(run: Run) -> np.ndarray:
    *_, step = denoise(run)
    assert step.x is run.x
    return step.x.asnumpy()


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    return standard_normal(generators(list(seeds), len(seeds)), shape)


def noise_bank(seeds: Sequence[int], steps: int, shape: tuple[int, ...]) -> np.ndarray:
    return next(noise_blocks(generators(list(seeds), len(seeds)), steps, shape, steps))


def begin(
    sampler: Sampler, x: object, mean: np.ndarray, seeds: Sequence[int] | None = None, **rest: Any
) -> Run:
    rngs = None if seeds is None else generators(list(seeds), len(seeds))
    return sampler.begin(x, {"mean": mean}, rngs, **rest)


def ddpm(denoiser: nn.Cell, x: object, chain: Schedule, mean: np.ndarray, **options: Any) -> Run:
    run = {name: options.pop(name) for name in ("seeds", "noise") if name in options}
    return begin(DDPM(denoiser, chain, **options), x, mean, **run)


def ddim(denoiser: nn.Cell, x: object, chain: Schedule, mean: np.ndarray, **options: Any) -> Run:
    run = {name: options.pop(name) for name in ("seeds", "noise") if name in options}
    return begin(DDIM(denoiser, chain, **options), x, mean, **run)


def close(value: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(value - expected).max() <= LOOP_BOUND * np.abs(expected).max())


def exact(x: np.ndarray, mean: np.ndarray, alpha_bar: float) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of x_0 and of the noise in x, for data N(mean, STD^2) and `alpha_bar`."""
    eps = (
        np.sqrt(1 - alpha_bar)
        * (x - np.sqrt(alpha_bar) * mean)
        / (alpha_bar * STD**2 + 1 - alpha_bar)
    )
    return (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar), eps


def ancestral(
    x: np.ndarray, mean: np.ndarray, chain: Schedule, noise: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """DDPM with the posterior's variance in float64: x after each step, and its estimate of x_0."""
    for i, index in enumerate(reversed(range(chain.num_steps))):
        x0, _ = exact(x, mean, chain.alphas_cumprod[index])
        x = chain.posterior_mean_coef1[index] * x0 + chain.posterior_mean_coef2[index] * x
        x = x + np.sqrt(chain.posterior_variance[index]) * noise[i]
        yield x, x0


def deterministic(x: np.ndarray, mean: np.ndarray, chain: Schedule) -> np.ndarray:
    """DDIM with eta 0 in float64."""
    for index in reversed(range(chain.num_steps)):
        x0, eps = exact(x, mean, chain.alphas_cumprod[index])
        before = chain.alphas_cumprod_prev[index]
        x = np.sqrt(before) * x0 + np.sqrt(1 - before) * eps
    return x


def test_ddpm_with_exact_reverse_variance_reproduces_the_data(
    gaussian: Maker, means: Means
) -> None:
    """Ten steps suffice: every reverse step is exact, so the chain is exact."""
    chain, frame, seeds = Schedule.create(respacing="10"), (4, 4, 32, 32), range(4)
    mean = means(1, -1, 0.5, 2)
    denoiser = gaussian(chain, STD, learned=True)
    x = last(ddpm(denoiser, initial_noise(seeds, frame), chain, mean, seeds=seeds))
    count = np.prod(frame)
    assert np.abs(x.mean((1, 2, 3, 4)) - mean.ravel()).max() < 5 * STD / np.sqrt(count)
    assert np.abs(x.std((1, 2, 3, 4)) - STD).max() < 5 * STD / np.sqrt(2 * count)


def test_ddpm_steps_follow_the_posterior(gaussian: Maker, means: Means) -> None:
    chain, seeds = Schedule.create(respacing="10,15,20"), [5, 6]
    x, noise = initial_noise(seeds, FRAME), noise_bank(seeds, 45, FRAME)
    run = ddpm(gaussian(chain, STD), x, chain, means(1, -1), noise=noise, **FIXED)
    steps = list(denoise(run))
    assert [step.index for step in steps] == list(range(45))
    assert [step.timestep for step in steps] == chain.timestep_map[::-1].tolist()
    expected = ancestral(x.astype(np.float64), means(1, -1), chain, noise)
    for step, (x, x0) in zip(steps, expected, strict=True):
        assert close(step.x.asnumpy(), x)
        assert close(step.x0.asnumpy(), x0)


def test_the_last_step_adds_no_noise(gaussian: Maker, means: Means) -> None:
    chain, x = Schedule.create(respacing="5"), initial_noise([1], FRAME)
    noise = noise_bank([1], 5, FRAME)
    sampler = DDPM(gaussian(chain, STD, learned=True), chain)
    first = last(begin(sampler, x, means(1), noise=noise))
    noise[-1] = 1e6
    assert np.array_equal(last(begin(sampler, x, means(1), noise=noise)), first)


def test_ddim_follows_its_equation_and_converges_to_the_data(gaussian: Maker, means: Means) -> None:
    x, mean = initial_noise([0, 1], FRAME), means(1, -1)
    errors = []
    for respacing in ("25", "100"):
        chain = Schedule.create(respacing=respacing)
        result = last(ddim(gaussian(chain, STD), x, chain, mean, **FIXED))
        assert close(result, deterministic(x.astype(np.float64), mean, chain))
        # The flow of Gaussian data is linear.
        errors.append(np.abs(result - (mean + STD * x)).max())
    assert errors[1] < errors[0] / 3.5
    assert errors[1] < 0.1


def test_ddim_with_eta_one_is_ddpm(gaussian: Maker, means: Means) -> None:
    chain, seeds = Schedule.create(respacing="20"), [2, 3]
    denoiser, x, mean = gaussian(chain, STD), initial_noise(seeds, FRAME), means(1, -1)
    stochastic = last(ddim(denoiser, x, chain, mean, eta=1.0, seeds=seeds, **FIXED))
    assert close(stochastic, last(ddpm(denoiser, x, chain, mean, seeds=seeds, **FIXED)))


def test_ddim_ignores_learned_variance_values(gaussian: Maker, means: Means) -> None:
    chain, x = Schedule.create(respacing="5"), initial_noise([2], FRAME)
    learned = last(ddim(gaussian(chain, STD, learned=True), x, chain, means(1)))
    assert close(learned, last(ddim(gaussian(chain, STD), x, chain, means(1), **FIXED)))


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_samples_do_not_depend_on_the_batch(gaussian: Maker, means: Means, name: str) -> None:
    chain, seeds = Schedule.create(respacing="6"), [11, 12, 13]
    options = {"eta": 0.5} if name == "ddim" else {}
    sampler = SAMPLERS[name](gaussian(chain, STD, learned=True), chain, **options)
    x = initial_noise(seeds, FRAME)
    together = last(begin(sampler, x, means(1, -1, 0.5), seeds=seeds))
    alone = last(begin(sampler, initial_noise([12], FRAME), means(-1), seeds=[12]))
    assert np.abs(together[1] - alone[0]).max() <= 1e-5 * np.abs(alone).max()
    assert np.abs(together[0] - alone[0]).max() > 0.1


def test_noise_in_parts_gives_the_same_sample(
    gaussian: Maker, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, seeds = Schedule.create(respacing="7"), [4, 5]
    sampler = DDPM(gaussian(chain, STD, learned=True), chain)
    x = initial_noise(seeds, FRAME)
    whole = last(begin(sampler, x, means(1, -1), seeds=seeds))
    monkeypatch.setattr(samplers, "BLOCK_BYTES", 3 * 4 * x.size)  # three steps at a time
    assert np.array_equal(last(begin(sampler, x, means(1, -1), seeds=seeds)), whole)


def test_all_steps_and_batches_share_one_graph_and_upload_nothing(
    gaussian: Maker, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads: list[object] = []
    upload = samplers.on_device

    def counted(array: np.ndarray) -> Tensor:
        uploads.append(array)
        return upload(array)

    monkeypatch.setattr(samplers, "on_device", counted)
    chain = Schedule.create(respacing="8")
    sampler = DDPM(gaussian(chain, STD, learned=True), chain)
    for seed in (1, 2):
        uploads.clear()
        run = begin(sampler, initial_noise([seed], FRAME), means(seed), seeds=[seed])
        steps = list(denoise(run))
        assert len(steps) == 8
        assert len(uploads) == 5  # x, the condition, the index, the noise and its first index
    assert len(sampler.compile_cache) == 1


def test_a_run_can_start_in_the_middle(gaussian: Maker, means: Means) -> None:
    chain, x = Schedule.create(respacing="9"), initial_noise([3], FRAME)
    sampler = DDIM(gaussian(chain, STD), chain, **FIXED)
    steps = list(denoise(begin(sampler, x, means(1))))
    rest = list(denoise(begin(sampler, steps[4].x, means(1), start=3)))
    assert [step.timestep for step in rest] == [step.timestep for step in steps[5:]]
    assert np.array_equal(rest[-1].x.asnumpy(), steps[-1].x.asnumpy())


def test_the_caller_may_stop_early(gaussian: Maker, means: Means) -> None:
    chain = Schedule.create(respacing="9")
    run = ddim(gaussian(chain, STD), initial_noise([3], FRAME), chain, means(1), **FIXED)
    for step in denoise(run):
        if step.index == 2:
            break
    assert step.timestep == chain.timestep_map[6]
    np.testing.assert_array_equal(run.x.asnumpy(), step.x.asnumpy())


def test_the_caller_may_replace_the_sample(gaussian: Maker, means: Means) -> None:
    chain = Schedule.create(respacing="4")
    x, other = initial_noise([3], FRAME), initial_noise([4], FRAME)
    denoiser = gaussian(chain, STD)
    run = ddim(denoiser, x, chain, means(1), **FIXED)
    steps = denoise(run)
    next(steps)
    run.x = Tensor(other)
    *_, step = steps
    rest = DDIM(denoiser, chain, **FIXED).begin(other, {"mean": means(1)}, start=2)
    np.testing.assert_array_equal(step.x.asnumpy(), last(rest))


def test_ddim_returns_from_its_inversion(gaussian: Maker, means: Means) -> None:
    mean = means(1, -1)
    clean = mean + STD * initial_noise([8, 9], FRAME)
    errors = []
    for respacing in ("50", "200"):
        chain = Schedule.create(respacing=respacing)
        denoiser = gaussian(chain, STD)
        *_, top = denoise(DDIMInversion(denoiser, chain, **FIXED).begin(clean, {"mean": mean}))
        assert top.index == chain.num_steps - 2  # the last index is reached, not evaluated
        back = last(ddim(denoiser, top.x, chain, mean, **FIXED))
        errors.append(np.abs(back - clean).max())
    assert errors[1] < errors[0] / 3.5  # of first order in the step
    assert errors[1] < 0.1
    assert np.abs(top.x.asnumpy().std() - 1) < 0.05


def test_sampling_from_the_middle_undoes_inversion_to_the_middle(
    gaussian: Maker, means: Means
) -> None:
    chain, clean = Schedule.create(respacing="200"), means(1) + STD * initial_noise([8], FRAME)
    denoiser = gaussian(chain, STD)
    inversion = DDIMInversion(denoiser, chain, **FIXED)
    *_, top = denoise(inversion.begin(clean, {"mean": means(1)}, stop=60))
    assert top.index == 59
    sampler = DDIM(denoiser, chain, **FIXED)
    assert np.abs(last(begin(sampler, top.x, means(1), start=60)) - clean).max() < 0.05


@pytest.mark.parametrize("kind", [DDPM, DDIM, DDIMInversion])
def test_parameters_keep_their_names(kind: type[nn.Cell]) -> None:
    denoiser = nn.Dense(2, 2)
    before = [parameter.name for parameter in denoiser.get_parameters()]
    wrapped = kind(denoiser, Schedule.create())
    assert [parameter.name for parameter in wrapped.get_parameters()] == before


def test_uploaded_tensors_keep_dtype_and_values() -> None:
    for dtype in (ms.float32, ms.float16, ms.int32, ms.bool_):
        tensor = samplers.on_device(Tensor(np.array([0, 1, 1]), dtype))
        assert tensor.dtype == dtype
        assert tensor.asnumpy().tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`rngs` or `noise` .*, got neither"),
        ({"seeds": [1], "noise": np.zeros(1)}, "`rngs` or `noise` .*, got both"),
        ({"seeds": [1, 2]}, r"one per sample \(1\), got 2"),
        ({"noise": np.zeros((4, 1, *FRAME))}, r"must be \(5, 1, 2, 4, 8, 8\), got \(4, 1, 2"),
        ({"seeds": [1], "start": 5}, "`start` must be an index from 0 to 4, got 5"),
    ],
)
def test_wrong_calls_fail_before_the_first_step(
    gaussian: Maker, arguments: dict[str, object], message: str
) -> None:
    sampler = DDPM(gaussian(Schedule.create(), STD), Schedule.create(respacing="5"))
    with pytest.raises(ValueError, match=message):
        begin(sampler, initial_noise([1], FRAME), np.zeros(1), **arguments)


def test_eta_and_stop_are_checked(gaussian: Maker) -> None:
    chain = Schedule.create(respacing="5")
    with pytest.raises(ValueError, match=r"`eta` must be from 0 to 1, got 1\.5"):
        DDIM(gaussian(chain, STD), chain, eta=1.5)
    with pytest.raises(ValueError, match="`stop` must be an index from 0 to 4, got -1"):
        DDIMInversion(gaussian(chain, STD), chain).begin(initial_noise([1], FRAME), {}, stop=-1)
