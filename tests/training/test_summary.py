"""What is said of a run before its first update."""

import logging
from collections.abc import Callable

import numpy as np
import pytest

from latte_ms.training.batch import LatentBatch
from latte_ms.training.loop_recipe import LoopConfig
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.summary import summary, try_batch


def test_a_summary_counts_parameters_clips_epochs_and_memory(trainer: object) -> None:
    settings = LoopConfig(output="x", max_steps=1000, batch_size=5)
    text = summary(trainer.network, trainer.step, settings, 2, num_videos=40, start=200)
    everything = sum(p.asnumpy().size for p in trainer.network.get_parameters())
    trained = sum(p.asnumpy().size for p in trainer.network.trainable_params())
    mib = {
        "weights": everything * 4 / 2**20,
        "gradients": trained * 4 / 2**20,
        "optimizer": trained * 8 / 2**20,
        "EMA": trained * 4 / 2**20,
    }
    parts = ", ".join(f"{name} {size:.1f} MiB" for name, size in mib.items())
    assert text.split("\n") == [
        f"  parameters {everything:,} in Latte, {trained:,} trained",
        "  update     5 clips x 2 ranks x 1 batches: 10 clips",
        "  length     800 updates after update 200, 200 epochs of 40 videos",
        f"  memory     {sum(mib.values()):.1f} MiB: {parts}, on each rank; "
        "activations are not counted",
    ]


def test_a_batch_is_tried_without_an_update(
    trainer: object, batch_of: Callable[..., LatentBatch], caplog: pytest.LogCaptureFixture
) -> None:
    before, batch = trainer.state(), batch_of(0, 2)
    tried = trainer.step.scalars_of(batch)
    assert all(np.array_equal(array, before[name]) for name, array in trainer.state().items())
    with caplog.at_level(logging.INFO):
        try_batch(trainer.step, DenoisingObjective.term_names, batch)
    assert f"The first batch has loss {tried[0]:.4g}, mse {tried[1]:.4g}" in caplog.text
    ([scalars], _) = trainer.step.update_from_batches(step_factors(OptimizerConfig(), 0), [batch])
    np.testing.assert_allclose(tried, [float(s.asnumpy()) for s in scalars], rtol=1e-5)
    bad = LatentBatch(batch.latents * np.nan, *batch.inputs[1:], batch.conditions, None, ("a/b",))
    with pytest.raises(ValueError, match=r"The first batch has .*nan.*Its videos: a/b\."):
        try_batch(trainer.step, DenoisingObjective.term_names, bad)
