"""The step as a whole: bad batches, loss scaling, accumulation, recomputation, joint images."""

from collections.abc import Callable
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from latte_ms.training import step as step_module
from latte_ms.training.batch import LatentBatch, tensors
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.step import TrainStep

Arrays = dict[str, np.ndarray]
BatchOf = Callable[..., LatentBatch]


def run(trainer: object, number: int, batch: LatentBatch) -> list[float]:
    """One update; the scalars and the norm."""
    inputs, conditions = tensors(batch)
    factors = step_factors(trainer.optimizer, number).tensor()
    return [float(s.asnumpy()) for s in trainer.step(factors, *inputs, **conditions)]


def largest_difference(ours: Arrays, theirs: Arrays, part: str = "") -> float:
    """Largest absolute difference, per array relative to its largest value.

    The keys' biases are left out: their gradients are zero but for rounding, which Adam blows up.
    """
    names = [name for name in theirs if name.startswith(part) and ".key.bias" not in name]
    return max(
        np.abs(ours[name] - theirs[name]).max() / max(np.abs(theirs[name]).max(), 1e-3)
        for name in names
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_nothing(
    trainer: object, batch_of: BatchOf, bad: float
) -> None:
    run(trainer, 0, batch_of(0, 2))
    before = trainer.state()
    batch = batch_of(1, 2)
    batch.latents[1, 2, 0, 3, 3] = bad
    scalars = run(trainer, 1, batch)
    assert not np.isfinite(scalars[-1])
    after = trainer.state()
    assert after.pop("skipped_updates") == before["skipped_updates"] + 1 == trainer.step.skipped
    assert all(np.array_equal(after[name], before[name]) for name in after)
    # The next good batch continues as if there had been no bad one.
    assert np.isfinite(run(trainer, 1, batch_of(2, 2))).all()
    continued = trainer.state()
    assert continued.pop("skipped_updates") == 1
    trainer.reset()
    run(trainer, 0, batch_of(0, 2))
    run(trainer, 1, batch_of(2, 2))
    expected = trainer.state()
    assert all(np.array_equal(continued[name], expected[name]) for name in continued)


def test_every_weight_learns(trainer: object, batch_of: BatchOf) -> None:
    before = trainer.state()
    run(trainer, 0, batch_of(0, 2))
    after = trainer.state()
    still = {w.name for w in trainer.step.weights if np.array_equal(before[w.name], after[w.name])}
    # A bias of all keys moves all scores of a query alike: the softmax does not see it.
    assert still <= {f"blocks.{i}.attention.key.bias" for i in range(2)}


def half(batch: LatentBatch, i: int) -> LatentBatch:
    """Sample number `i` of a batch."""
    conditions = {name: array[i : i + 1] for name, array in batch.conditions.items()}
    return LatentBatch(*(array[i : i + 1] for array in batch.inputs), conditions)


@pytest.mark.slow
def test_two_batches_of_one_equal_one_batch_of_two(
    trainer: object, new_trainer: type, batch_of: BatchOf
) -> None:
    halves = new_trainer(conditioning="class", accumulate=2)
    for number in range(3):
        batch = batch_of(number, 2)
        *scalars, norm = run(trainer, number, batch)
        parts = [half(batch, i) for i in range(2)]
        terms, half_norm = halves.step.update_from_batches(
            step_factors(halves.optimizer, number), parts
        )
        means = np.mean([[float(term.asnumpy()) for term in part] for part in terms], axis=0)
        np.testing.assert_allclose(means, scalars, rtol=1e-5)
        assert float(half_norm.asnumpy()) == pytest.approx(norm, rel=1e-5)
    weights = {p.name for p in (*trainer.step.weights, *trainer.step.ema)}
    ours, theirs = halves.state(), trainer.state()
    assert largest_difference(ours, {name: theirs[name] for name in weights}) <= 1e-5


def test_an_update_takes_its_number_of_batches(trainer: object, batch_of: BatchOf) -> None:
    factors = step_factors(trainer.optimizer, 0)
    with pytest.raises(ValueError, match="`batches` must hold 1 batches, got 2"):
        trainer.step.update_from_batches(factors, [batch_of(i, 2) for i in range(2)])
    with pytest.raises(ValueError, match="`accumulate` must be at least 1, got 0"):
        TrainStep(trainer.step.objective, trainer.optimizer, accumulate=0)


@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradients(
    trainer: object, new_trainer: type, batch_of: BatchOf
) -> None:
    again = new_trainer(conditioning="class", recompute=True)
    ours, theirs = run(again, 0, batch_of(0, 2)), run(trainer, 0, batch_of(0, 2))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    # After one step the first moment is a multiple of the gradient.
    assert largest_difference(again.state(), trainer.state(), "adam_first") <= 1e-5


@pytest.mark.slow
def test_joint_images_with_labels_learn(new_trainer: type, batch_of: BatchOf) -> None:
    joint = new_trainer(conditioning="class", num_joint_images=2)
    batch = batch_of(0, 2, 6)
    results = []
    for labels in ([[0, 1], [2, 1]], [[2, 1], [2, 1]]):
        joint.reset()
        conditions = {**batch.conditions, "y_image": np.array(labels, np.int32)}
        results.append(run(joint, 0, replace(batch, conditions=conditions)))
    assert np.isfinite(results).all()
    assert results[0][0] != results[1][0], "the images' labels must matter"


@pytest.mark.slow
def test_text_embeddings_train_their_projection(new_trainer: type, batch_of: BatchOf) -> None:
    texts = new_trainer(conditioning="text", text_tokens=2, text_width=3)
    batch = batch_of(0, 2)
    losses = []
    for value in (0.5, -2.0):
        texts.reset()
        before = texts.state()["text_projection.weight"]
        embedding = np.full((2, 2, 3), value, np.float32)
        losses.append(run(texts, 0, replace(batch, conditions={"text_embedding": embedding}))[0])
        assert not np.array_equal(texts.state()["text_projection.weight"], before)
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1], "the text must matter"


def test_conditions_are_passed_by_name(trainer: object, batch_of: BatchOf) -> None:
    """Each call's labels count, and the graph is compiled once for all of them."""
    batch = batch_of(0, 2)
    losses = []
    for labels in ([0, 1], [2, 2], [0, 1]):
        trainer.reset()
        conditions = {"y": np.array(labels, np.int32)}
        losses.append(run(trainer, 0, replace(batch, conditions=conditions))[0])
    assert losses[0] == losses[2] != losses[1]
    with pytest.raises(ValueError, match="`y` of shape"):
        run(trainer, 0, replace(batch, conditions={}))


@pytest.mark.slow
def test_joint_images_without_classes_learn(new_trainer: type, batch_of: BatchOf) -> None:
    joint = new_trainer(conditioning="none", num_joint_images=2)
    batch = replace(batch_of(0, 2, 6), conditions={})
    first = run(joint, 0, batch)
    for number in range(1, 6):
        last = run(joint, number, batch)
    assert np.isfinite(first).all()
    assert last[0] < first[0]


class HalfProduct(nn.Cell):
    """sum(w x) with the product in float16, whose gradient overflows above 65504."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.full(4, 0.5, np.float32)), "weight")

    def construct(self, x: Tensor) -> tuple[Tensor]:
        product = self.weight.astype(ms.float16) * x.astype(ms.float16)
        return (ops.sum(product).astype(ms.float32),)


@pytest.fixture(scope="module")
def scaled() -> TrainStep:
    """A float16 step whose scale grows after 3 good steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "_SCALE_GROWTH_STEPS", 3)
        step = TrainStep(HalfProduct(), OptimizerConfig(), scale_loss=True)
        x = Tensor(np.full(4, 1e-3, np.float32))
        step(step_factors(OptimizerConfig(), 0).tensor(), x)  # compiles
    return step


def half_step(step: TrainStep, value: float) -> float:
    """One update with gradients of `value`; the norm."""
    x = Tensor(np.full(4, value, np.float32))
    return float(step(step_factors(OptimizerConfig(), 0).tensor(), x)[-1].asnumpy())


def set_scale(step: TrainStep, scale: float) -> None:
    step.loss_scale.value.set_data(Tensor(np.float32(scale)))
    step.loss_scale.good_steps.set_data(Tensor(np.float32(0.0)))


def scale_of(step: TrainStep) -> float:
    return float(step.loss_scale.value.asnumpy())


def averaged_and_moved(step: TrainStep) -> tuple[Parameter, ...]:
    """Weight, EMA and moments of the one weight."""
    state = step.optimizer_state
    return (*step.weights, *step.ema, *state.first_moments, *state.second_moments)


def test_the_loss_scale_halves_on_overflow_and_the_weights_stay(scaled: TrainStep) -> None:
    set_scale(scaled, 2.0**16)
    before = {p.name: p.asnumpy().copy() for p in averaged_and_moved(scaled)}
    skipped = scaled.skipped
    assert not np.isfinite(half_step(scaled, 8.0))
    assert scale_of(scaled) == 2.0**15
    assert scaled.skipped == skipped + 1
    for parameter in averaged_and_moved(scaled):
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
    for _ in range(4):
        half_step(scaled, 8.0)
    assert scaled.skipped == skipped + 4, "the last of them is not skipped"
    # 2^13 * 8 = 65536 overflows still, 2^12 * 8 does not.
    assert scale_of(scaled) == 2.0**12
    for parameter in averaged_and_moved(scaled):
        assert not np.array_equal(parameter.asnumpy(), before[parameter.name])


def test_the_loss_scale_doubles_after_enough_good_steps(scaled: TrainStep) -> None:
    set_scale(scaled, 2.0**8)
    scales = []
    for _ in range(7):
        half_step(scaled, 1.0)
        scales.append(scale_of(scaled))
    assert scales == [2.0**8, 2.0**8, 2.0**9, 2.0**9, 2.0**9, 2.0**10, 2.0**10]
    half_step(scaled, np.inf)  # counting begins anew
    half_step(scaled, 1.0)
    half_step(scaled, 1.0)
    assert scale_of(scaled) == 2.0**9


def test_the_norm_does_not_depend_on_the_loss_scale(scaled: TrainStep) -> None:
    for scale in (1.0, 2.0**10):
        set_scale(scaled, scale)
        assert half_step(scaled, 1.5) == pytest.approx(3.0, rel=1e-6)


def test_bad_batches_for_long_do_not_use_up_the_loss_scale(scaled: TrainStep) -> None:
    set_scale(scaled, 4.0)
    for _ in range(6):
        half_step(scaled, np.nan)
    assert scale_of(scaled) == 1.0
    assert half_step(scaled, 1.0) == pytest.approx(2.0)
