"""Samples of several weights by one sampler: which weights go together, and what is loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from examples.moving_shapes import sample_each
from examples.moving_shapes.experiment import SAMPLING
from latte_ms import weights
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.lora_recipe import LoraOptions
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.weights.network import contents
from scripts import sample

NETWORK = {"input_size": 16, "depth": 2, "hidden_size": 8, "num_heads": 2}
DIFFUSION = {"prediction": "x0", "num_train_steps": 500}


def checkpoint(folder: Path, network: dict[str, Any], diffusion: dict[str, Any]) -> Path:
    """The record of a training, without its weights."""
    folder.mkdir()
    classes = {"conditioning": "class", "num_classes": 192}
    identity = {"network": network | classes, "diffusion": diffusion}
    (folder / "state.json").write_text(json.dumps({"step": 1, "identity": identity}))
    return folder


@pytest.mark.parametrize(
    ("network", "diffusion", "message"),
    [
        (NETWORK | {"depth": 4}, DIFFUSION, "network.depth is 2 and 4."),
        (NETWORK, DIFFUSION | {"prediction": "epsilon"}, "sampler.prediction is x0 and epsilon."),
        (NETWORK, DIFFUSION | {"num_train_steps": 900}, "num_train_steps is 500 and 900."),
    ],
)
def test_weights_of_another_network_or_process_are_refused(
    network: dict[str, Any],
    diffusion: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = checkpoint(tmp_path / "first", NETWORK, DIFFUSION)
    second = checkpoint(tmp_path / "second", network, diffusion)
    sources = ["--weights", str(first), "--weights", str(second)]
    with pytest.raises(SystemExit):
        sample_each.main(["--config", str(SAMPLING), *sources, f"output={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert f"--weights must be of one network and one diffusion process, got {first} and" in error
    assert message in error
    assert not (tmp_path / "out").exists()


def test_the_next_weights_are_loaded_as_the_first_were(tmp_path: Path) -> None:
    """With the names' prefix, what the file has besides, and LoRA, whose first action is undone."""
    cfg = LatteConfig(num_frames=2, conditioning="class", num_classes=8, **NETWORK)
    rng = np.random.default_rng(3)
    for name in ("first", "second"):
        tensors = {
            f"network.{key}": rng.standard_normal(spec.shape, np.float32)
            for key, spec in contents(Latte(cfg, seed=0)).specs.items()
        }
        save_file(tensors | {"moment": np.zeros(3, np.float32)}, tmp_path / f"{name}.safetensors")
    side = NETWORK["hidden_size"]
    module = "blocks.0.attn.proj"
    down, up = rng.standard_normal((2, 2, side), np.float32)
    lora = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up.T.copy()}
    save_file(lora, tmp_path / "lora.safetensors")

    def recipe(name: str) -> LatteRecipe:
        return LatteRecipe(
            weights=str(tmp_path / f"{name}.safetensors"),
            vae="unused",
            output="unused",
            prefix="network.",
            only_network=True,
            network=cfg,
            adapters=LoraOptions([str(tmp_path / "lora.safetensors")], [0.5]),
        )

    def values(network: Latte) -> dict[str, np.ndarray]:
        tensors = contents(network)
        return {name: np.array(tensors[name]) for name in tensors}

    network = Latte(cfg, seed=None)
    for name in ("first", "second"):
        sample.fill_network(network, recipe(name))
        found = values(network)
        plain = weights.read(tmp_path / f"{name}.safetensors")
        for key, value in found.items():
            change = 0.5 * up.T @ down if key == f"{module}.weight" else 0.0
            expected = plain[f"network.{key}"] + change
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6, err_msg=key)
