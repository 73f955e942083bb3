"""The share of the time that training would wait for its data."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.moving_shapes.shapes import write_shapes
from tools import benchmark_data


def slow_batches(seconds: float) -> Iterator[int]:
    for number in itertools.count():
        time.sleep(seconds)
        yield number


def test_waiting_is_what_the_batches_take() -> None:
    batches = slow_batches(0.02)
    found = benchmark_data.measure(batches, steps=5, warmup=2, step_seconds=0.02)
    assert next(batches) == 7
    assert found.steps == 5
    assert 0.1 <= found.waiting <= found.total - 0.1
    assert 0.0 < found.share < 1.0


def test_the_batches_of_a_recipe_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list(write_shapes(tmp_path, 1, 0, 32, 4, 1))
    recipe = ["--config", "configs/shapes/train.yaml", f"data.path={tmp_path}"]
    sizes = ["data.image_size=32", "data.num_frames=4", "network.input_size=8"]
    sizes += ["network.num_frames=4", "loop.batch_size=2"]
    fast = ["--steps", "3", "--warmup", "1", "--step-seconds", "0"]
    benchmark_data.main([*recipe, *sizes, *fast])
    assert "8 videos, batches of 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark_data.main([*recipe, *sizes, "--steps", "0"])
    assert "`--steps` (=0) must be at least 1" in capsys.readouterr().err
