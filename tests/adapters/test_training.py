"""Training of LoRA matrices against peft in PyTorch: gradients, updates, and their checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import mindspore as ms
import numpy as np
import peft
import pytest
import torch
from mindspore import Tensor, nn

from latte_ms.adapters.cells import add_lora, lora_weights, set_lora_weights
from latte_ms.adapters.configuration import LoraConfig
from latte_ms.adapters.files import to_tensors
from latte_ms.adapters.weights import LoraWeights, LowRank
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.schedule import Schedule
from latte_ms.training import checkpoint, trained_weights
from latte_ms.training.batch import LatentBatch
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.step import TrainStep
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.weights.network import contents
from tools.reference_latte import Latte as ReferenceLatte
from tools.reference_latte import diffusion_loss

UPDATES, LOOP = 12, 1e-4  # bound fixed before looking, relative to the largest reference value
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, weight_decay=0.01, clip_max_norm=0.5, ema_decay=0.9)


class TextDenoiser(nn.Cell):
    """`LatteT2V` as a denoiser whose condition is a prompt's embeddings."""

    def __init__(self, network: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        keys, values = self.network.text_context(text)
        return self.network.predict_from_context(x, t.astype(ms.float32), keys, values)


def batch(number: int, **conditions: tuple[int, ...]) -> LatentBatch:
    rng = np.random.default_rng((7, number))
    x0, noise = rng.standard_normal((2, 2, 3, 3, 4, 4), np.float32)
    t = rng.integers(1, 1000, 2, dtype=np.int32)
    drawn = {name: rng.standard_normal(shape, np.float32) for name, shape in conditions.items()}
    return LatentBatch(x0, noise, t, drawn)


def text_batch(number: int) -> LatentBatch:
    return batch(number, text=(2, 5, 6))


def class_batch(number: int) -> LatentBatch:
    plain = batch(number)
    labels = np.random.default_rng((8, number)).integers(0, 5, 2).astype(np.int32)
    return LatentBatch(plain.latents, plain.noise, plain.timesteps, {"y": labels})


def with_random_b(network: Any, scale: float = 0.1) -> LoraWeights:
    """Random matrices B, since zero ones would give the matrices A no gradient."""
    rng = np.random.default_rng(3)
    random = {
        name: LowRank(
            change.a, rng.normal(0, scale, change.b.shape).astype(np.float32), change.alpha
        )
        for name, change in lora_weights(network).items()
    }
    set_lora_weights(network, LoraWeights(random))
    return lora_weights(network)


def step_of(denoiser: nn.Cell, **options: Any) -> TrainStep:
    objective = DenoisingObjective(DiffusionLoss(denoiser, Schedule.create()))
    return TrainStep(objective, OPTIMIZER, **options).set_train()


class TorchTraining:
    """The same updates by torch: peft's matrices in a reference network, AdamW, clipping, EMA."""

    def __init__(self, model: Any, lora: LoraWeights, predict: Callable) -> None:
        config = peft.LoraConfig(
            r=2, lora_alpha=4, target_modules=sorted(lora), init_lora_weights=False
        )
        self.model = peft.inject_adapter_in_model(config, model)
        state = {name: torch.from_numpy(v.copy()) for name, v in to_tensors(lora, "").items()}
        result = peft.set_peft_model_state_dict(self.model, state)
        assert not result.unexpected_keys
        self.predict = predict
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        assert len(self.trained) == 2 * len(lora), "peft trains the matrices alone"
        self.ema = [p.detach().clone() for p in self.trained]
        rate, decay = OPTIMIZER.learning_rate, OPTIMIZER.weight_decay
        self.adamw = torch.optim.AdamW(self.trained, lr=rate, weight_decay=decay)

    def update(self, one: LatentBatch) -> tuple[float, float]:
        self.adamw.zero_grad()
        inputs = (torch.from_numpy(array) for array in one.inputs)
        loss = diffusion_loss(lambda x, t: self.predict(self.model, x, t, one.conditions), *inputs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, OPTIMIZER.clip_max_norm)
        self.adamw.step()
        for average, value in zip(self.ema, self.trained, strict=True):
            average.lerp_(value.detach(), 1 - OPTIMIZER.ema_decay)
        return float(loss.detach()), float(norm)

    def arrays(self, values: list | None = None) -> dict[str, np.ndarray]:
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        chosen = self.trained if values is None else values
        return {
            name.replace(".default", ""): value.detach().numpy()
            for name, value in zip(names, chosen, strict=True)
        }


def compare(step: TrainStep, network: Any, torch_run: TorchTraining, batches: Callable) -> None:
    """Losses, gradient norms, matrices and their EMA of twelve updates."""
    for number in range(UPDATES):
        one = batches(number)
        scalars, norm = step.update_from_batches(step_factors(OPTIMIZER, number), [one])
        expected = torch_run.update(one)
        found = float(scalars[0][0].asnumpy()), float(norm.asnumpy())
        np.testing.assert_allclose(found, expected, rtol=LOOP)
    averages = checkpoint.ema_of(network, step)
    for parameters, values in ((None, None), (averages, torch_run.ema)):
        found = dict(to_tensors(lora_weights(network, parameters), ""))
        expected = torch_run.arrays(values)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert np.abs(found[name] - value).max() <= LOOP * np.abs(value).max(), name


@pytest.mark.slow
def test_twelve_updates_of_latte_t2v_are_peft_s(t2v_config: LatteT2VConfig) -> None:
    fields = {k: v for k, v in t2v_config.to_dict().items() if k != "_class_name"}
    network = LatteT2V(t2v_config)
    model = diffusers.LatteTransformer3DModel(**fields)
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in contents(network).items()})
    add_lora(network, LoraConfig(2, 4, ["attention", "ff.net.2"]), seed=1)
    lora = with_random_b(network)
    assert {module.rpartition("attn1.")[2] for module in lora} >= {"to_q", "to_out.0"}

    def predict(model: Any, x: torch.Tensor, t: torch.Tensor, conditions: dict) -> torch.Tensor:
        text = torch.from_numpy(conditions["text"])
        return model(x.transpose(1, 2), t, text, return_dict=False)[0].transpose(1, 2)

    step = step_of(TextDenoiser(network))
    compare(step, network, TorchTraining(model, lora, predict), text_batch)


def randomised(network: Latte) -> None:
    rng = np.random.default_rng(5)
    for parameter in network.trainable_params():
        parameter.set_data(Tensor(rng.normal(0, 0.2, parameter.shape).astype(np.float32)))


@pytest.fixture(scope="module")
def make_latte(latte_config: LatteConfig) -> Callable[[], Latte]:
    """A `Latte` with random weights and random matrices in attention and MLP."""

    def make() -> Latte:
        network = Latte(latte_config)
        randomised(network)
        add_lora(network, LoraConfig(2, 4, ["attention", "mlp"]), seed=1)
        with_random_b(network)
        return network

    return make


@pytest.fixture(scope="module")
def latte_step(make_latte: Callable) -> tuple[Latte, TrainStep]:
    network = make_latte()
    return network, step_of(network)


@pytest.mark.slow
def test_twelve_updates_of_latte_are_peft_s(
    latte_config: LatteConfig, latte_step: tuple[Latte, TrainStep]
) -> None:
    """Queries, keys and values are one layer of the reference, with one matrix A."""
    network, step = latte_step
    plain = Latte(latte_config)
    randomised(plain)
    model = ReferenceLatte(latte_config)
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in contents(plain).items()})

    def predict(model: Any, x: torch.Tensor, t: torch.Tensor, conditions: dict) -> torch.Tensor:
        return model(x, t, y=torch.from_numpy(conditions["y"]))

    lora = lora_weights(network)
    names = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert set(lora) == {f"blocks.{i}.{name}" for i in (0, 1) for name in names}
    compare(step, network, TorchTraining(model, lora, predict), class_batch)


def state_of(network: Any, step: TrainStep) -> dict[str, np.ndarray]:
    parameters = {p.name: p for p in (*step.weights, *step.ema, *network.get_parameters())}
    return {name: p.asnumpy().copy() for name, p in {**parameters, **step.state}.items()}


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(
    latte_step: tuple[Latte, TrainStep], make_latte: Callable, tmp_path: Path
) -> None:
    """A checkpoint holds the matrices alone; with the base weights it is all that a run needs."""
    network, step = latte_step
    frozen = {n: p.asnumpy().copy() for n, p in network.parameters_and_names() if "lora" not in n}
    checkpoint.save(tmp_path, network, step, 1, {}, 0)
    files = ("model", "ema", "optimizer")
    sizes = [(tmp_path / "0000001" / f"{name}.safetensors").stat().st_size for name in files]
    assert sum(sizes) < 8 * sum(p.size * 4 for p in step.weights)
    saved = state_of(network, step)
    step.update_from_batches(step_factors(OPTIMIZER, 1), [class_batch(1)])
    expected = state_of(network, step)

    fresh = make_latte()
    loaded = step_of(fresh)
    assert checkpoint.resume(tmp_path / "0000001", fresh, loaded, {}) == 1
    for name, value in state_of(fresh, loaded).items():
        np.testing.assert_array_equal(value, saved[name], err_msg=name)
    checkpoint.resume(tmp_path / "0000001", network, step, {})
    step.update_from_batches(step_factors(OPTIMIZER, 1), [class_batch(1)])
    for name, value in state_of(network, step).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    for name, value in frozen.items():
        np.testing.assert_array_equal(dict(network.parameters_and_names())[name].asnumpy(), value)


def test_a_checkpoint_of_other_matrices_is_refused(
    latte_step: tuple[Latte, TrainStep], latte_config: LatteConfig, tmp_path: Path
) -> None:
    trained_weights.save(latte_step[0], tmp_path / "model.safetensors")
    for config in (LoraConfig(3, 6, ["attention", "mlp"]), LoraConfig(2, 2, ["attention", "mlp"])):
        other = Latte(latte_config)
        add_lora(other, config)
        with pytest.raises(ValueError, match="must have the modules, ranks and alphas of the net"):
            trained_weights.load(other, tmp_path / "model.safetensors")


@pytest.mark.slow
def test_recompute_and_accumulation_give_the_same_gradients(
    latte_step: tuple[Latte, TrainStep], make_latte: Callable
) -> None:
    (plain, whole), other = latte_step, make_latte()
    set_lora_weights(plain, lora_weights(other))
    for block in other.blocks:
        block.recompute()
    found = []
    for step in (whole, step_of(other, accumulate=2)):
        parts = [class_batch(0)] * step.accumulate
        scalars, norm = step.update_from_batches(step_factors(OPTIMIZER, 0), parts)
        found.append([float(scalars[0][0].asnumpy()), float(norm.asnumpy())])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.slow
def test_float16_with_a_loss_scale(latte_config: LatteConfig) -> None:
    network = Latte(latte_config, ms.float16)
    randomised(network)
    add_lora(network, LoraConfig(2, 4, ["attention", "mlp"]), seed=1)
    with_random_b(network)
    before = lora_weights(network)
    step = step_of(network, scale_loss=True)
    for number in range(3):
        scalars, norm = step.update_from_batches(
            step_factors(OPTIMIZER, number), [class_batch(number)]
        )
        assert np.isfinite([float(scalars[0][0].asnumpy()), float(norm.asnumpy())]).all()
    after = lora_weights(network)
    assert all((after[name].b != before[name].b).any() for name in before)
