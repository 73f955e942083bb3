"""Twelve updates of a tiny `LatteT2V` beside diffusers' network, a loss in torch, and AdamW."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from mindspore import Tensor

from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.schedule import Schedule
from latte_ms.training.captioned import CaptionedDenoiser
from latte_ms.training.checkpoint import ema_of
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.step import TrainStep
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.weights import mapping
from latte_ms.weights.maps import LATTE_T2V
from latte_ms.weights.pretrained import save_pretrained
from latte_ms.weights.tensors import from_arrays

# Fixed before looking. Losses relative to themselves, tensors to the largest value of their kind.
LOSS, TENSOR = 1e-5, 1e-4
UPDATES, BATCH, FRAMES, IMAGES, TOKENS, WIDTH = 12, 2, 3, 2, 5, 6
RATE, DECAY, NORM = 1e-3, 0.9, 0.5
NAMES = ("loss", "mse", "vb", "norm")


class Batch:
    """Update number `number`; with images (I > 0) a prompt for each of them."""

    def __init__(self, number: int, images: int) -> None:
        rng = np.random.default_rng((3, number))
        shape = (BATCH, FRAMES + images, 3, 4, 4)
        self.x0, self.noise = rng.standard_normal((2, *shape), np.float32)
        self.t = rng.integers(1, 1000, BATCH, dtype=np.int32)
        self.t[0] = number % 3  # step 0, whose bound is a likelihood, in every third update
        prompts = (BATCH, 1 + images) if images else (BATCH,)
        self.text = rng.standard_normal((*prompts, TOKENS, WIDTH), np.float32)
        lengths = rng.integers(1, TOKENS + 1, prompts)
        self.mask = (np.arange(TOKENS) < lengths[..., None]).astype(np.int32)


class Reference:
    """The reference's loss, as its paper and repository describe it, and torch's AdamW."""

    def __init__(self, network: Any, images: int) -> None:
        self.network, self.images = network.train(), images
        for name, parameter in network.named_parameters():
            # Zero but for rounding, which Adam would turn into steps at random.
            parameter.requires_grad_(not name.endswith("to_k.bias"))
        self.weights = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=RATE, weight_decay=0.0)
        self.ema = {n: p.detach().clone() for n, p in network.named_parameters()}
        betas = np.linspace(1e-4, 2e-2, 1000)
        self.alpha_bar = np.cumprod(1 - betas)
        self.betas, self.before = betas, np.append(1.0, self.alpha_bar[:-1])

    def coefficient(self, values: np.ndarray, t: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values[t].astype(np.float32)).reshape(-1, 1, 1, 1, 1)

    def output(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, mask: torch.Tensor):
        """(B, F + I, 2C, h, w): the images as videos of one frame without temporal blocks."""
        if not self.images:
            return self.run(x, t, text, mask, True)
        video = self.run(x[:, :FRAMES], t, text[:, 0], mask[:, 0], True)
        each = x[:, FRAMES:].flatten(0, 1)[:, None]
        image_text, image_mask = text[:, 1:].flatten(0, 1), mask[:, 1:].flatten(0, 1)
        image = self.run(each, t.repeat_interleave(self.images), image_text, image_mask, False)
        return torch.cat([video, image.unflatten(0, (-1, self.images))[:, :, 0]], 1)

    def run(self, x: Any, t: Any, text: Any, mask: Any, temporal: bool) -> torch.Tensor:
        bias = (1.0 - mask.float().repeat_interleave(x.shape[1], 0))[:, None] * -10000.0
        return self.network(
            x.transpose(1, 2),
            t,
            text,
            encoder_attention_mask=bias,
            enable_temporal_attentions=temporal,
            return_dict=False,
        )[0].transpose(1, 2)

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x0, noise, t = torch.from_numpy(batch.x0), torch.from_numpy(batch.noise), batch.t
        at = lambda values: self.coefficient(values, t)  # noqa: E731
        x = at(self.alpha_bar**0.5) * x0 + at((1 - self.alpha_bar) ** 0.5) * noise
        text, mask = torch.from_numpy(batch.text), torch.from_numpy(batch.mask)
        noise_found, v = self.output(x, torch.from_numpy(t), text, mask).chunk(2, 2)
        mse = ((noise - noise_found) ** 2).mean((1, 2, 3, 4))
        found = noise_found.detach()
        estimate = at(self.alpha_bar**-0.5) * x - at((1 / self.alpha_bar - 1) ** 0.5) * found
        to_x0 = at(self.betas * self.before**0.5 / (1 - self.alpha_bar))
        to_x = at((1 - self.before) * (1 - self.betas) ** 0.5 / (1 - self.alpha_bar))
        variance = self.betas * (1 - self.before) / (1 - self.alpha_bar)
        least = at(np.log(np.append(variance[1], variance[1:])))
        log_variance = (v + 1) / 2 * at(np.log(self.betas)) + (1 - v) / 2 * least
        mean, true_mean = to_x0 * estimate + to_x * x, to_x0 * x0 + to_x * x
        ratio = torch.exp(least - log_variance)
        distance = (true_mean - mean) ** 2 * torch.exp(-log_variance)
        kl = 0.5 * (-1 + log_variance - least + ratio + distance)
        likelihood = log_likelihood(x0, mean, log_variance)
        first = torch.from_numpy(t == 0)
        bound = torch.where(first, -likelihood.mean((1, 2, 3, 4)), kl.mean((1, 2, 3, 4)))
        bound = bound / np.log(2.0)
        return (mse + bound).mean(), mse.mean(), bound.mean()

    def update(self, batch: Batch) -> list[float]:
        losses = self.losses(batch)
        self.optimizer.zero_grad()
        losses[0].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, NORM)
        self.optimizer.step()
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                self.ema[name].mul_(DECAY).add_(parameter, alpha=1 - DECAY)
        return [float(value.detach()) for value in (*losses, norm)]


def log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Of the 256 levels of [-1, 1], as for pixels, with the tanh approximation."""

    def cdf(value: torch.Tensor) -> torch.Tensor:
        scale = (2.0 / np.pi) ** 0.5
        return 0.5 * (1.0 + torch.tanh(scale * (value + 0.044715 * value**3)))

    inverse = torch.exp(-0.5 * log_variance)
    upper, lower = (cdf(inverse * (x - mean + sign / 255)) for sign in (1, -1))
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.log(torch.where(x < -0.999, upper, inner).clamp(min=1e-12))


class Run:
    """Both trainings, from the same weights: values of each update, and what is left at the end."""

    def __init__(self, images: int, folder: Path) -> None:
        config = LatteT2VConfig(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=3,
            out_channels=6,
            num_layers=2,
            cross_attention_dim=16,
            sample_size=4,
            caption_channels=WIDTH,
            video_length=FRAMES,
            num_joint_images=images,
        )
        self.network = LatteT2V(config, seed=1)
        save_pretrained(self.network, folder)
        torch_network = diffusers.LatteTransformer3DModel.from_pretrained(folder)
        self.reference = Reference(torch_network, images)
        self.optimizer = OptimizerConfig(RATE, clip_max_norm=NORM, ema_decay=DECAY)
        denoiser = CaptionedDenoiser(self.network)
        objective = DenoisingObjective(DiffusionLoss(denoiser, Schedule.create()))
        self.step = TrainStep(objective, self.optimizer).set_train()
        self.found, self.expected = [], []
        for number in range(UPDATES):
            batch = Batch(number, images)
            self.expected.append(self.reference.update(batch))
            self.found.append(self.update(number, batch))
            if number == 0:
                self.gradients = self.first_gradients()
                self.torch_gradients = {
                    name: np.zeros_like(p.detach().numpy())
                    if p.grad is None
                    else p.grad.numpy() + 0
                    for name, p in torch_network.named_parameters()
                }

    def update(self, number: int, batch: Batch) -> list[float]:
        factors = step_factors(self.optimizer, number).tensor()
        inputs = map(Tensor, (batch.x0, batch.noise, batch.t))
        scalars = self.step(
            factors,
            *inputs,
            encoder_hidden_states=Tensor(batch.text),
            encoder_attention_mask=Tensor(batch.mask),
        )
        return [float(scalar.asnumpy()) for scalar in scalars]

    def first_gradients(self) -> dict[str, np.ndarray]:
        """After clipping, as the first moments hold them."""
        state = self.step.optimizer_state
        pairs = zip(state.weights, state.first_moments, strict=True)
        moments = {p.name: moment.asnumpy() / (1 - self.optimizer.beta1) for p, moment in pairs}
        zeros = {n: np.zeros(p.shape, np.float32) for n, p in self.network.parameters_and_names()}
        names = {n: p.name for n, p in self.network.parameters_and_names()}
        return on_disk({name: moments.get(names[name], zeros[name]) for name in zeros})


def gradients_of(network: Any) -> dict[str, np.ndarray]:
    """Copies by name; zeros where there is none."""
    return {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy().copy()
        for name, p in network.named_parameters()
    }


def on_disk(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = mapping.to_stored_layout(from_arrays(arrays, "memory"), LATTE_T2V, {"in_channels": 3})
    return {name: tensors[name] for name in tensors}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(0, marks=pytest.mark.extended),
        pytest.param(IMAGES, marks=pytest.mark.slow),
    ],
    ids=["videos", "joint images"],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(request.param, tmp_path_factory.mktemp("weights"))


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(np.abs(value).max()) for value in expected.values())
    errors = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}
    assert {name: error for name, error in errors.items() if error > TENSOR * largest} == {}


def test_losses_and_norms(run: Run) -> None:
    found, expected = np.array(run.found), np.array(run.expected)
    assert np.ptp(expected[:, 0]) > 0.1 * expected[:, 0].mean(), "the losses must differ"
    errors = np.abs(found / expected - 1).max(0)
    assert dict(zip(NAMES, errors <= [LOSS, LOSS, LOSS, TENSOR], strict=True)) == dict.fromkeys(
        NAMES, True
    ), errors


def test_first_gradients(run: Run) -> None:
    assert_close(run.gradients, run.torch_gradients)
    for name in ("caption_projection.linear_1.weight", "transformer_blocks.1.attn2.to_k.weight"):
        assert np.abs(run.gradients[name]).max() > 0


def test_weights_after_the_updates(run: Run) -> None:
    found = {name: p.asnumpy() for name, p in run.network.parameters_and_names()}
    network = run.reference.network
    expected = {name: p.detach().numpy() for name, p in network.named_parameters()}
    assert_close(on_disk(found), expected)


def test_ema_after_the_updates(run: Run) -> None:
    found = {name: p.asnumpy() for name, p in ema_of(run.network, run.step).items()}
    expected = {name: value.numpy() for name, value in run.reference.ema.items()}
    assert_close(on_disk(found), expected)
