"""The start of the training on combinations: a table of labels from that of directions."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from examples.moving_shapes import combine_labels
from examples.moving_shapes.combine_labels import combined
from examples.moving_shapes.shapes import COMBINATIONS
from latte_ms import weights
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from tests.processes import run_here

NETWORK = {"input_size": 4, "hidden_size": 8, "depth": 2, "num_heads": 2, "num_frames": 2}
TABLE = "y_embedder.embedding_table.weight"


def combine(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(combine_labels.main, *map(str, arguments))


def test_a_row_is_a_direction_a_colour_and_a_shape() -> None:
    table = np.random.default_rng(0).standard_normal((9, 120)).astype(np.float32)
    found = combined(table, np.random.default_rng(1))
    assert found.shape == (193, 120)
    np.testing.assert_array_equal(found[-1], table[-1])
    row = {content: found[index] for index, content in enumerate(COMBINATIONS)}
    for index, (direction, colour, shape) in enumerate(COMBINATIONS):
        other = row[0, colour, shape]
        np.testing.assert_allclose(found[index] - other, table[direction] - table[0], atol=1e-5)
        change = row[0, colour, "circle"] + row[0, "red", shape] - row[0, "red", "circle"]
        np.testing.assert_allclose(other, change, atol=1e-5)
    # Two colours, and two shapes, are about as far apart as two directions.
    lengths = [
        float(np.linalg.norm(row[0, "red", "circle"] - row[key]))
        for key in ((1, "red", "circle"), (0, "blue", "circle"), (0, "red", "star"))
    ]
    assert max(lengths) < 1.5 * min(lengths)


def test_the_file_is_a_start_for_192_classes(tmp_path: Path) -> None:
    source = Latte(LatteConfig(conditioning="class", num_classes=8, **NETWORK), seed=0)
    weights.save(source, tmp_path / "ema.safetensors")
    target = tmp_path / "combined.safetensors"
    done = combine("--source", tmp_path / "ema.safetensors", "--target", target)
    assert done.returncode == 0, done.stderr
    network = Latte(LatteConfig(conditioning="class", num_classes=192, **NETWORK), seed=1)
    weights.load(network, target)
    theirs, ours = weights.read(tmp_path / "ema.safetensors"), weights.read(target)
    assert set(ours) == set(theirs)
    for name in set(theirs) - {TABLE}:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    again = combine("--source", tmp_path / "ema.safetensors", "--target", target)
    assert again.returncode == 2
    assert "`--target` exists" in again.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LatteConfig(conditioning="class", num_classes=7, **NETWORK), "must have 9 rows"),
        (LatteConfig(**NETWORK), "must be of a Latte with classes"),
    ],
)
def test_another_source_is_refused(tmp_path: Path, config: LatteConfig, message: str) -> None:
    weights.save(Latte(config, seed=0), tmp_path / "ema.safetensors")
    target = tmp_path / "combined.safetensors"
    done = combine("--source", tmp_path / "ema.safetensors", "--target", target)
    assert done.returncode == 2
    assert message in done.stderr
    assert not target.exists()
