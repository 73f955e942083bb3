"""Random damage anywhere in a file is either harmless or one WeightError, never another error."""

import random
from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.weights import WeightError, files, from_arrays

ROUNDS = 300
ARRAYS = {
    "model.a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "model.b": np.ones(3, np.int64),
    "ema.c": np.zeros((2, 2), np.float16),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to five bytes replaced, some removed or some inserted."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(result))
        kind = rng.random()
        if kind < 0.6:
            result[at] = rng.randrange(256)
        elif kind < 0.8:
            del result[at : at + rng.randrange(1, 9)]
        else:
            result[at:at] = rng.randbytes(rng.randrange(1, 5))
    return bytes(result)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
def test_random_damage(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(0)
    path = tmp_path / f"x{suffix}"
    weights.write(path, {"": from_arrays(ARRAYS)})
    whole = path.read_bytes()
    messages = []
    for _ in range(ROUNDS):
        path.write_bytes(damaged(whole, rng))
        try:
            for tensors in files.read_entries(path).values():
                tensors.verify()
                assert all(
                    tensors[name].shape == spec.shape for name, spec in tensors.specs.items()
                )
        except WeightError as error:
            messages.append(str(error))
    assert all(message.count(str(path)) == 1 for message in messages)
    assert len(messages) > ROUNDS / 3  # the rest hit names, padding, or values without a checksum
