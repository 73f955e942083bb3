"""LoRA files against peft itself, which injects them into diffusers' network."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import pytest
import safetensors.torch
import torch
from mindspore import Tensor

from latte_ms import adapters
from latte_ms.adapters import LoraWeights
from latte_ms.adapters.files import to_tensors, write_peft
from latte_ms.adapters.state import adapters_of
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.weights.network import contents

VALUE = 1e-5  # fixed before looking, relative to the largest reference value
RNG = np.random.default_rng(0)
X, TEXT = (RNG.standard_normal(s).astype(np.float32) for s in ((2, 3, 3, 4, 4), (2, 5, 6)))
T = np.array([3, 700])
ALL = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


def reference_of(network: LatteT2V) -> Any:
    """diffusers' network with the weights that `network` has without adapters."""
    fields = {k: v for k, v in network.config.to_dict().items() if k != "_class_name"}
    model = diffusers.LatteTransformer3DModel(**fields).eval()
    state = {name: torch.from_numpy(array.copy()) for name, array in contents(network).items()}
    model.load_state_dict(state)
    return model


def run_reference(model: Any) -> np.ndarray:
    inputs = (torch.from_numpy(array) for array in (X, T, TEXT))
    with torch.no_grad():
        return model(*inputs, return_dict=False)[0].numpy()


def run(network: LatteT2V) -> np.ndarray:
    return network(Tensor(X), Tensor(T), Tensor(TEXT)).asnumpy()


@pytest.fixture
def plain(t2v: LatteT2V) -> Iterator[LatteT2V]:
    """The network without adapters, compiled once."""
    yield t2v
    adapters_of(t2v).unload()


def injected(model: Any, file: Path) -> Any:
    """The model after peft has injected a file that we wrote, as its users do it."""
    state = safetensors.torch.load_file(file)
    state = {name.removeprefix("transformer."): value for name, value in state.items()}
    with safetensors.safe_open(file, "pt") as opened:
        text = opened.metadata()["lora_adapter_metadata"]
    prefix = "transformer."
    fields = {name.removeprefix(prefix): value for name, value in json.loads(text).items()}
    model = peft.inject_adapter_in_model(peft.LoraConfig(**fields), model)
    result = peft.set_peft_model_state_dict(model, state)
    assert not result.unexpected_keys
    return model.eval()


def mixed(t2v_shapes: dict, random_lora: Callable) -> LoraWeights:
    """Two ranks and two alphas, and the convolution over patches."""
    small = random_lora(t2v_shapes, *ALL, rank=2, alpha=3)
    large = random_lora(t2v_shapes, "attn2.to_k", "pos_embed.proj", rank=4, alpha=1.5, seed=1)
    return LoraWeights({**small, **large})


@pytest.mark.slow
def test_peft_injects_our_file(
    plain: LatteT2V, t2v_shapes: dict, random_lora: Callable, tmp_path: Path, error: Callable
) -> None:
    lora = mixed(t2v_shapes, random_lora)
    adapters.write(tmp_path / "lora.safetensors", lora)
    model = reference_of(plain)
    before = run_reference(model)
    expected = run_reference(injected(model, tmp_path / "lora.safetensors"))
    assert error(expected, before) > 0.01, "the weights do something"
    adapters_of(plain).add(adapters.read(tmp_path / "lora.safetensors"))
    assert error(run(plain), expected) <= VALUE


def test_peft_reads_our_folder_and_we_read_its(
    plain: LatteT2V, t2v_shapes: dict, random_lora: Callable, tmp_path: Path, error: Callable
) -> None:
    lora = random_lora(t2v_shapes, "to_q", "ff.net.2")
    write_peft(tmp_path / "ours", lora)
    model = peft.PeftModel.from_pretrained(reference_of(plain), tmp_path / "ours")
    expected = run_reference(model)
    model.save_pretrained(tmp_path / "theirs")
    theirs = adapters.read(tmp_path / "theirs")
    assert set(theirs) == set(lora)
    for module, change in theirs.items():
        np.testing.assert_array_equal(change.a, lora[module].a)
        np.testing.assert_array_equal(change.b, lora[module].b)
        assert change.alpha == lora[module].alpha
    adapters_of(plain).add(theirs)
    assert error(run(plain), expected) <= VALUE


def test_several_adapters_with_weights_are_peft_s(
    plain: LatteT2V, t2v_shapes: dict, random_lora: Callable, error: Callable
) -> None:
    """Weighted sums, fusing, and who acts after a deletion."""
    one, two = (random_lora(t2v_shapes, *ALL, seed=seed) for seed in (1, 2))
    model = reference_of(plain)
    own = adapters_of(plain)
    for name, lora in (("one", one), ("two", two)):
        config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=sorted(lora))
        peft.inject_adapter_in_model(config, model, adapter_name=name)
        state = {k: torch.from_numpy(v) for k, v in to_tensors(lora, "").items()}
        peft.set_peft_model_state_dict(model, state, adapter_name=name)
        own.add(lora, name)
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    assert layers[0].active_adapters == own.active == ["two"], "the newest acts alone"

    def compare() -> None:
        assert error(run(plain), run_reference(model)) <= VALUE

    compare()
    for layer in layers:
        layer.set_adapter(["one", "two"])
        layer.set_scale("one", 0.5)
        layer.set_scale("two", -0.25)
    own.activate(["one", "two"], [0.5, -0.25])
    compare()
    for layer in layers:
        layer.scale_layer(0.7)
        layer.merge()
    own.fuse(None, 0.7)
    compare()
