"""Damaged configurations of pipeline folders: one short error that names the file, at once."""

import copy
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latte_ms import schedulers
from latte_ms.generation.pipelines import folder as folders
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.text import T5Config, load_tokenizer
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.configuration import read_config
from latte_ms.weights.pretrained import read_configuration
from tests.memory import peak_mib, reset_peak

READERS: dict[str, Callable[[Path], Any]] = {
    "model_index.json": lambda f: folders.listed(f, ["scheduler"]),
    "scheduler/scheduler_config.json": lambda f: schedulers.load(f / "scheduler"),
    "text_encoder/config.json": lambda f: read_configuration(
        f / "text_encoder", "text_encoder", T5Config.from_json
    ),
    "tokenizer/tokenizer_config.json": lambda f: load_tokenizer(f / "tokenizer"),
    "transformer/config.json": lambda f: read_configuration(
        f / "transformer", "transformer", LatteT2VConfig.from_json
    ),
    "vae/config.json": lambda f: read_configuration(f / "vae", "vae", read_config),
}
DEEP = "deep"  # replaced by lists in lists, a thousand deep
WRONG: tuple[Any, ...] = (
    *("x", "", None, True, [], {}, [1], ["x", 2], {"a": 1}, DEEP),
    *(7, -1, 0, 0.5, 1e308, -1e308, 2 * 10**30, float("nan"), float("inf")),
)
# Fields that decide nothing here: any value is passed over.
UNUSED = {
    "model_index.json": {"_diffusers_version"},
    "text_encoder/config.json": {"eos_token_id"},
    "transformer/config.json": {"_diffusers_version"},
    "vae/config.json": {"_diffusers_version"},
}


@pytest.fixture
def damaged(pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "pipeline"))


def text_of(values: Any) -> str:
    return json.dumps(values).replace(f'"{DEEP}"', "[" * 1000 + "]" * 1000)


def is_of_the_kind(value: Any, new: Any) -> bool:
    """Whether a new value has the type of the old one, and so may be right."""
    if isinstance(value, bool) or isinstance(new, bool):
        return isinstance(value, bool) and isinstance(new, bool)
    if isinstance(value, list | dict) and not new:
        return isinstance(new, list | dict)  # some are written in either way
    if isinstance(value, int | float):
        return isinstance(new, int | float) and abs(new) < 100 * (1 + abs(value))
    return value is None or type(value) is type(new)


@pytest.mark.parametrize("name", READERS)
def test_a_value_of_another_kind_is_refused(damaged: Path, name: str) -> None:
    """Every field, with every wrong value; what is accepted has the type of the right value."""
    path = damaged / name
    values = json.loads(path.read_text())
    accepted = []
    for key in values.keys() - UNUSED.get(name, set()):
        for wrong in WRONG:
            path.write_text(text_of(values | {key: wrong}))
            try:
                READERS[name](damaged)
            except ValueError as error:
                message = str(error)
                assert str(path) in message, (key, wrong)
                assert f"`{key}" in message or "nested" in message or f"{key}`" in message, message
                assert len(message) < 700, (key, wrong)
            else:
                accepted.append((key, wrong))
    strange = [(k, v) for k, v in accepted if v is not None and not is_of_the_kind(values[k], v)]
    assert not strange  # null is as if it were left out


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = values if isinstance(values, dict) else range(len(values))
    for key in keys:
        yield values, key
        if isinstance(values[key], dict | list):
            yield from _places(values[key])


def damage(folder: Path, draw: random.Random) -> str:
    """Damage one file of a pipeline's configuration; returns what was done."""
    name = draw.choice([*READERS, "tokenizer/special_tokens_map.json", "tokenizer/spiece.model"])
    path = folder / name
    content = path.read_bytes()
    way = draw.choice(["bytes", "cut"] if name.endswith(".model") else ["value"] * 6 + ["bytes"])
    if way == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif way == "bytes":
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + draw.randbytes(8) + content[place + 8 :])
    else:
        values = copy.deepcopy(json.loads(content))
        container, key = draw.choice(list(_places(values)))
        wrong = draw.choice(WRONG)
        if draw.random() < 0.1:
            del container[key]
        elif isinstance(container[key], int) and draw.random() < 0.2:
            container[key] *= draw.choice((-1, 3, 1000, 10**9))
        else:
            container[key] = wrong
        way = f"{key} = {wrong!r}"
        path.write_text(text_of(values))
    return f"{name}: {way}"


def refusal(folder: Path) -> str | None:
    """The message of a pipeline that is refused as it should be."""
    try:
        LattePipeline.from_pretrained(folder, low_memory=True)
    except ValueError as error:
        return str(error)
    return None


def check_damaged(source: Path, folder: Path, seed: int, count: int) -> tuple[int, int]:
    """Open `count` damaged pipelines; (refused, accepted). A refusal is one short ValueError."""
    draw = random.Random(seed)
    refused = accepted = 0
    reset_peak()
    memory = peak_mib()
    shutil.copytree(source, folder)
    for _ in range(count):
        done = damage(folder, draw)
        started = time.monotonic()
        message = refusal(folder)
        if message is None:
            accepted += 1
        else:
            refused += 1
            assert str(folder) in message, (done, message)
            assert len(message) < 1000, done
        assert time.monotonic() - started < 10, done
        file = done.partition(":")[0]
        shutil.copyfile(source / file, folder / file)
    assert peak_mib() - memory < 1024
    return refused, accepted


def test_a_sample_of_damaged_folders(pipeline_folder: Path, tmp_path: Path) -> None:
    refused, _ = check_damaged(pipeline_folder, tmp_path / "pipeline", seed=1, count=30)
    assert refused > 10


@pytest.mark.extended
def test_300_damaged_folders(pipeline_folder: Path, tmp_path: Path) -> None:
    refused, accepted = check_damaged(pipeline_folder, tmp_path / "pipeline", seed=0, count=300)
    assert refused > 100
    assert refused + accepted == 300


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, bytes(range(256)), b"[]"])
@pytest.mark.parametrize("name", [*READERS, "tokenizer/spiece.model"])
def test_an_empty_or_binary_file(damaged: Path, name: str, content: bytes) -> None:
    (damaged / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.rpartition("/")[2]) as raised:
        LattePipeline.from_pretrained(damaged, low_memory=True)
    assert str(damaged / name) in str(raised.value)


def test_weights_are_not_read_before_the_configurations(damaged: Path) -> None:
    for file in damaged.glob("*/*.safetensors"):
        file.write_bytes(b"damaged")
    values = json.loads((damaged / "scheduler" / "scheduler_config.json").read_text())
    text = json.dumps(values | {"beta_end": []})
    (damaged / "scheduler" / "scheduler_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"scheduler_config.json: `beta_end` must be .* got \[\]"):
        LattePipeline.from_pretrained(damaged)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS.values())
def test_every_scheduler_refuses_values_of_another_kind(name: str) -> None:
    config = dict(schedulers.create(name).config)
    for key in config.keys() - {"_use_default_values"}:
        for wrong in ("x", {}, 1e308, -7e7, float("nan")):
            with pytest.raises(ValueError, match=f"`{key}"):
                schedulers.create(name, config | {key: wrong})
    if name != "DDPMScheduler":
        with pytest.raises(ValueError, match="cannot be made: sigmoid is not implemented"):
            schedulers.create(name, beta_schedule="sigmoid")
