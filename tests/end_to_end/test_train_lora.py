"""LoRA by the scripts: trained, resumed bit for bit, sampled with, merged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from latte_ms import config, weights
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.training.recipe import TrainConfig
from latte_ms.transformer.latte import Latte
from scripts import sample, train
from tools import merge_lora

pytestmark = pytest.mark.slow
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def base(train_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for the tiny network, none of them zero."""
    cfg = config.load(TrainConfig, train_arguments[1], train_arguments[2:])
    network, rng = Latte(cfg.network), np.random.default_rng(0)
    for parameter in network.trainable_params():
        parameter.set_data(Tensor(rng.normal(0, 0.2, parameter.shape).astype(np.float32)))
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    weights.save(network, path)
    return path


@pytest.fixture(scope="module")
def lora_arguments(train_arguments: list[str], base: Path) -> list[str]:
    more = ["lora.rank=2", "lora.alpha=3", "lora.targets=[attention,mlp.fc1]"]
    return [*train_arguments, f"initial_weights={base}", *more, "optimizer.learning_rate=0.05"]


def run(arguments: list[str], output: Path) -> Path:
    """The last checkpoint of a run of three updates, which also saves the second one."""
    train.main([*arguments, f"loop.output={output}", "loop.max_steps=3", "loop.save_every=2"])
    return output / "checkpoints" / "0000003"


@pytest.fixture(scope="module")
def whole(lora_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of three updates in one go."""
    return run(lora_arguments, tmp_path_factory.mktemp("lora") / "whole")


def test_a_run_resumes_bit_for_bit_and_writes_its_ema(
    lora_arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    """What was stopped after two updates ends as if it had not been; the EMA is what it gives."""
    second = whole.with_name("0000002")
    shutil.copytree(second, tmp_path / "parts" / "checkpoints" / second.name)
    parts = run(lora_arguments, tmp_path / "parts")
    for name in FILES:
        ours, theirs = load_file(parts / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
    written = load_file(tmp_path / "parts" / LORA)
    average = load_file(whole / "ema.safetensors")
    assert written.keys() == average.keys()
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in written)
    assert all(np.array_equal(written[name], average[name]) for name in average)
    assert any(np.abs(value).max() > 0 for name, value in written.items() if "lora_B" in name)


def test_a_finished_run_writes_peft_s_folder(
    lora_arguments: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run([*lora_arguments, "lora.format=peft"], whole.parents[1])
    folder = whole.parents[1] / "lora"
    assert f"LoRA weights: {folder}" in capsys.readouterr().out
    fields = peft.LoraConfig.from_pretrained(folder)
    assert (fields.r, fields.lora_alpha) == (2, 3)
    assert len(load_file(folder / "adapter_model.safetensors")) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=3"], "lora.rank was 2, is 3"),
        (["initial_weights=/other.pt"], "lora.initial_weights was "),
        (["initial_weights=''"], "`lora.rank` (=2) needs `initial_weights`"),
        (["lora.rank=0"], "`lora.alpha` and `lora.targets` need a `lora.rank`"),
        (["lora.targets=[attn.to_q]", "loop.output=new"], "no layer is called attn.to_q"),
    ],
)
def test_a_mistake_ends_with_one_message(
    lora_arguments: list[str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    arguments = [*lora_arguments, f"loop.output={whole.parents[1]}", *overrides]
    with pytest.raises(SystemExit) as caught:
        train.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def sample_arguments(
    arguments: Callable[..., list[str]], vae: Path, base: Path, sizes: dict[str, object]
) -> list[str]:
    return arguments(
        "sample.yaml",
        weights=base,
        vae=vae,
        sampler__num_steps=2,
        classes="[2]",
        formats="[png]",
        network__conditioning="class",
        network__num_classes=8,
        network__learn_sigma="false",
        **{f"network__{name}": value for name, value in sizes.items()},
    )


def values(arguments: list[str], *overrides: str) -> dict[str, np.ndarray]:
    """The parameters of the network that a sampling command builds."""
    cfg = config.load(LatteRecipe, arguments[1], [*arguments[2:], *overrides, "output=x"])
    network = sample.build(cfg).network
    return {name: p.asnumpy().copy() for name, p in network.parameters_and_names()}


def test_the_file_is_sampled_with_and_merged(
    sample_arguments: list[str], whole: Path, base: Path, tmp_path: Path
) -> None:
    """At half strength; the merged file gives the very weights, and other frames than before."""
    lora = [f"lora=[{whole.parents[1] / LORA}]", "lora_scale=[0.5]"]
    target = tmp_path / "merged.safetensors"
    files = ["--source", str(base), "--lora", str(whole.parents[1] / LORA), "--target", str(target)]
    assert merge_lora.main([*files, "--scale", "0.5"]) == 0
    adapted, merged = values(sample_arguments, *lora), values(sample_arguments, f"weights={target}")
    plain = values(sample_arguments)
    for name, value in adapted.items():
        np.testing.assert_array_equal(merged[name], value, err_msg=name)
    changed = {name for name in plain if not np.array_equal(plain[name], adapted[name])}
    assert len(changed) == 2 * 5, sorted(changed)
    assert all("blocks." in name for name in changed)
    sample.main([*sample_arguments, *lora, f"output={tmp_path / 'with'}"])
    sample.main([*sample_arguments, f"output={tmp_path / 'without'}"])
    ours, before = (tmp_path / name / "2_seed0.png" for name in ("with", "without"))
    assert ours.read_bytes() != before.read_bytes()


def test_a_checkpoint_of_matrices_is_no_network(sample_arguments: list[str], whole: Path) -> None:
    with pytest.raises(ValueError, match="is a checkpoint of LoRA matrices: give it as `lora`"):
        values(sample_arguments, f"weights={whole}")
    by_folder = values(sample_arguments, f"lora=[{whole}]")
    by_file = values(sample_arguments, f"lora=[{whole.parents[1] / LORA}]")
    assert all(np.array_equal(by_file[name], by_folder[name]) for name in by_file)
