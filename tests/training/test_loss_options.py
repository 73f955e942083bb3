"""Min-SNR, the contrastive term, alignment and loss-aware timesteps, together in one graph.

The reference is in `loss_options.py`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from latte_ms import weights
from latte_ms.runtime import Rank
from latte_ms.training import checkpoint, loop
from latte_ms.training.batch import LatentBatch
from latte_ms.training.ema import gamma_of, posthoc_coefficients
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.run_folder import RunFolder
from latte_ms.training.snapshots import SNAPSHOTS
from latte_ms.transformer.latte import Latte
from tests.training.loss_options import CONFIG, OPTIMIZER, AllOptions, Reference, batch_of, batches
from tools import posthoc_ema

LOOP = 1e-4  # of updates, relative to the largest value
FORWARD = 1e-5

pytestmark = pytest.mark.slow
IDENTITY = {"network": {"size": "tiny"}}


@pytest.fixture(scope="module")
def built() -> AllOptions:
    return AllOptions()


@pytest.fixture
def trainer(built: AllOptions) -> AllOptions:
    built.reset()
    return built


def differing(ours: weights.Tensors, theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each array, relative; without the keys' biases, whose gradient is 0."""
    found = {}
    for name, tensor in theirs.items():
        a, b = ours[name], tensor.detach().numpy()
        if name.endswith("qkv.bias"):
            size = CONFIG.hidden_size
            a, b = (np.delete(x, np.s_[size : 2 * size]) for x in (a, b))
        found[name] = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    return found


def test_loss_and_gradients_are_those_of_the_papers(trainer: AllOptions, tmp_path: Path) -> None:
    reference = Reference(trainer, tmp_path)
    ours, theirs = trainer.update(0, batch_of(0)), reference.update(0, batch_of(0))
    np.testing.assert_allclose(ours, theirs, rtol=FORWARD)
    share = 1 - OPTIMIZER.beta1  # of the gradient, in the first moment after one update
    first = {p.name: p for p in trainer.step.optimizer_state.first_moments}
    moments = {name: first.get(f"adam_first.{p.name}", p) for name, p in named(trainer)}
    weights.save(trainer.network, tmp_path / "m.safetensors", parameters=moments)
    stored = weights.read(tmp_path / "m.safetensors")
    theirs_by_name = dict(reference.network.named_parameters())
    expected = {n: share * p.grad for n, p in theirs_by_name.items() if p.requires_grad}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        ours_of, theirs_of = stored[name], gradient.numpy()
        if name.endswith("qkv.bias"):
            ours_of, theirs_of = (np.delete(x, np.s_[16:32]) for x in (ours_of, theirs_of))
        assert np.abs(ours_of - theirs_of).max() <= FORWARD * largest, name
    head = [share * p.grad.numpy() for p in reference.head.parameters()]
    mine = [
        first[f"adam_first.{p.name}"].asnumpy() for p in trainer.alignment.head.get_parameters()
    ]
    for ours_of, theirs_of in zip(mine, head, strict=True):
        assert np.abs(ours_of - theirs_of).max() <= FORWARD * largest


def named(trainer: AllOptions) -> list:
    return list(trainer.network.parameters_and_names())


def test_twelve_updates_are_those_of_the_papers(trainer: AllOptions, tmp_path: Path) -> None:
    reference = Reference(trainer, tmp_path)
    for number in range(12):
        ours, theirs = (part.update(number, batch_of(number)) for part in (trainer, reference))
        np.testing.assert_allclose(ours, theirs, rtol=LOOP)
    weights.save(trainer.network, tmp_path / "model.safetensors")
    parameters = checkpoint.ema_of(trainer.network, trainer.step)
    weights.save(trainer.network, tmp_path / "ema.safetensors", parameters=parameters)
    for name, network in (("model", reference.network), ("ema", reference.teacher)):
        stored = weights.read(tmp_path / f"{name}.safetensors")
        assert max(differing(stored, network.state_dict()).values()) <= LOOP
    history = trainer.timesteps.history.losses
    assert np.abs(history - np.array(reference.losses)).max() <= LOOP * history.max()


def test_a_run_is_resumed_bit_for_bit(trainer: AllOptions, tmp_path: Path) -> None:
    for number in range(3):
        trainer.update(number, batch_of(number))
    path = checkpoint.save(tmp_path, trainer.network, trainer.step, 3, IDENTITY, 0)
    for number in range(3, 6):
        trainer.update(number, batch_of(number))
    expected = trainer.state()
    trainer.reset()
    assert checkpoint.resume(path, trainer.network, trainer.step, IDENTITY) == 3
    for number in range(3, 6):
        trainer.update(number, batch_of(number))
    resumed = trainer.state()
    assert [name for name in expected if not np.array_equal(resumed[name], expected[name])] == []
    assert {
        "timestep_losses",
        "alignment.linear_1.weight",
        "ema_0.05.blocks.0.mlp.fc1.bias",
    } <= set(weights.read(path / checkpoint.OPTIMIZER))
    names = set(weights.read(path / checkpoint.MODEL)) | set(weights.read(path / checkpoint.EMA))
    assert not any("alignment" in name for name in names), "the projection is no part of a network"


def test_state_that_a_checkpoint_lacks_is_named(trainer: AllOptions, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, trainer.network, trainer.step, 1, IDENTITY, 0)
    file = path / checkpoint.OPTIMIZER
    stored = dict(weights.read(file))
    before = trainer.state()
    for prefix, message in (
        ("ema_0.05.", r"lacks ema_0\.05\..*`optimizer.ema_sigma_rels` from its beginning"),
        ("timestep_", r"lacks timestep_losses, timestep_counts\.$"),
        ("alignment.", r"lacks alignment\.linear_1\.weight"),
    ):
        kept = {name: array for name, array in stored.items() if not name.startswith(prefix)}
        weights.write(file, {"": weights.from_arrays(kept)})
        with pytest.raises(ValueError, match=message):
            checkpoint.resume(path, trainer.network, trainer.step, IDENTITY)
    older = {name: array for name, array in stored.items() if name != "skipped_updates"}
    weights.write(file, {"": weights.from_arrays(older)})
    checkpoint.resume(path, trainer.network, trainer.step, IDENTITY)
    after = trainer.state()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_bad_batch_changes_no_state(trainer: AllOptions) -> None:
    before = trainer.state()
    batch = batch_of(0)
    batch.latents[2] = np.nan
    assert not np.isfinite(trainer.update(0, batch)[-1])
    after = trainer.state()
    changed = {name for name in before if not np.array_equal(after[name], before[name])}
    assert changed == {"skipped_updates", "timestep_losses"}
    kept = np.isfinite(after["timestep_losses"]).all()
    assert kept, "the losses of the other samples are recorded, that of the bad one is not"


def test_a_batch_without_uniform_numbers_is_refused(trainer: AllOptions) -> None:
    with pytest.raises(ValueError, match="`batch` must be a LatentBatch with its `uniform`"):
        trainer.update(0, batch_of(0, uniform=None))


def test_an_average_of_any_length_is_made_from_the_snapshots_of_a_run(
    trainer: AllOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is broken off and resumed; the averages are those of its weights, in float64."""
    followed: list[np.ndarray] = []
    run = tmp_path / "run"
    for max_steps in (5, 12):
        settings = LoopConfig(output=str(run), max_steps=max_steps, log_every=100)
        with RunFolder(settings, IDENTITY, Rank()) as folder:
            source = partial(followed_batches, trainer.network, followed)
            loop.train(trainer.network, trainer.step, trainer.term_names, source, OPTIMIZER, folder)
        trainer.reset()
    weights.load(trainer.network, run / "checkpoints" / "0000012", "model")
    path = np.array([*followed, flat(trainer.network)], np.float64)
    assert len(path) == 12
    stored = [(n, 0.05) for n in (2, 4, 6, 8, 10, 12)]
    assert [p.name for p in sorted((run / SNAPSHOTS).iterdir())] == [f"{n:07d}" for n, _ in stored]
    for step, sigma_rel in ((12, 0.05), (8, 0.05), (12, 0.15)):
        target = run / f"ema_{step}_{sigma_rel}"
        options = [f"--sigma-rel={sigma_rel}", f"--target={target}", f"--step={step}"]
        assert posthoc_ema.main([str(run), *options]) == 0
        used = [one for one in stored if one[0] <= step]
        factors = posthoc_coefficients(used, (step, sigma_rel))
        expected = sum(f * shares(one, 12) for f, one in zip(factors, used, strict=True)) @ path
        if sigma_rel == 0.05:
            direct = shares((step, 0.05), 12) @ path
            assert np.abs(expected - direct).max() <= FORWARD * np.abs(direct).max()
        weights.load(trainer.network, target, "ema")
        made = flat(trainer.network)
        assert np.abs(made - expected).max() <= FORWARD * np.abs(expected).max()
    assert "sigma_rel 0.15 after 12 updates, from 6 averages" in capsys.readouterr().out
    assert posthoc_ema.main([str(run), *options]) == 1
    assert f"`--target` exists: {target}; give --force to replace it." in capsys.readouterr().err
    assert posthoc_ema.main([str(tmp_path), "--sigma-rel=0.1", "--target=x"]) == 1
    assert "has no snapshots: training writes them" in capsys.readouterr().err
    assert posthoc_ema.main([str(run), "--sigma-rel=0.4", "--target=x"]) == 1
    assert "`--sigma-rel` must be from 0.005 to 0.2887, got 0.4" in capsys.readouterr().err


def followed_batches(
    network: Latte, followed: list[np.ndarray], start: int
) -> Iterator[LatentBatch]:
    """Batches from number `start` on; `followed` gets the weights after each update."""
    for number, batch in enumerate(batches(start), start):
        del followed[max(number - 1, 0) :]
        if number:
            followed.append(flat(network))
        yield batch


def flat(network: Latte) -> np.ndarray:
    """All trained weights in one row."""
    return np.concatenate([p.asnumpy().ravel() for p in network.trainable_params()])


def shares(profile: tuple[int, float], length: int) -> np.ndarray:
    """The share of the weights after each of `length` updates in a power function average."""
    edges = np.minimum(np.arange(length + 1) / profile[0], 1.0) ** (gamma_of(profile[1]) + 1)
    return np.diff(edges)
